"""The chat page in a real browser, against a backend that can misbehave on demand."""

import pytest

from tests.e2e.fake_backend import fake_backend


@pytest.fixture
def backend():
    with fake_backend() as backend:
        yield backend


@pytest.fixture
def chat(page, backend):
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    return page
