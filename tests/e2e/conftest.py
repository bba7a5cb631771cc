"""A headless Chromium, where there is one, and the chat page in it against a backend that can misbehave on demand."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.fake_backend import fake_backend

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = """
--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync
""".split()


@contextmanager
def launched():
    """While it is open, an event loop runs in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser():
    """Closed after each module, since tests of others run event loops of their own."""
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """A page with a fresh profile. Any error that it reports fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)  # a machine that is busy with other things is slow, not wrong
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.complaints = complaints
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def backend():
    with fake_backend() as backend:
        yield backend


@pytest.fixture
def chat(page, backend):
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    return page
