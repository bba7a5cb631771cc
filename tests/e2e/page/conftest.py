"""One browser for all files of this folder: none of their tests runs an event loop."""

import pytest

from tests.e2e.conftest import launched


@pytest.fixture(scope="package")
def browser():
    with launched() as browser:
        yield browser
