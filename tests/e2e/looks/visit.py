"""One visit to one state: how it is reached, its picture, and what is wrong with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.fake_backend import Backend, fake_backend

AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
MISPLACED = Path(__file__).parent / "misplaced.js"
RUN_AXE = "async (rules) => (await axe.run(document, { resultTypes: ['violations'], ...rules })).violations"
COLOURS = {"runOnly": ["color-contrast"]}
DRAWN = """async () => {
    await document.fonts.ready;
    for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
}"""
OF_SWAGGER = ("nested-interactive", "heading-order")  # how Swagger UI is built; the rest is mended by our CSS and names
SCHEMES = ("light", "dark")
SIZES = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "zoomed": {"viewport": {"width": 640, "height": 400}},  # a desk at 200 %
}


@dataclass(frozen=True)
class Visit:
    """A page on its way to a state."""

    page: Any
    backend: Backend

    def open(self, path: str = "/", ready: str = "#model option") -> None:
        self.page.goto(self.backend.url + path)
        self.page.wait_for_selector(ready, state="attached")


Reach = Callable[[Visit], None]


@contextmanager
def visit(browser: Any, size: str, reach: Reach, scale: float = 1) -> Iterator[Any]:
    """The page in its state, with a fresh profile and a server of its own."""
    with fake_backend() as backend:
        context = browser.new_context(**SIZES[size], device_scale_factor=scale, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        page = context.new_page()
        try:
            reach(Visit(page, backend))
            yield page
        finally:
            backend.goes_on.set()
            context.close()


def settle(page: Any, scheme: str) -> None:
    """Shows a scheme, and waits until everything is drawn."""
    page.emulate_media(color_scheme=scheme)
    page.evaluate(DRAWN)


def faults(page: Any, *, only_colours: bool = False) -> list[str]:
    """What axe finds, and what is cut off, covered or out of the page."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text() + "; 0")
    found = page.evaluate(RUN_AXE, COLOURS if only_colours else {})
    if page.locator(".swagger-ui").count():
        found = [one for one in found if one["id"] not in OF_SWAGGER]
    told = [f"{one['id']}: {node['html'][:150]}" for one in found for node in one["nodes"][:3]]
    return told + ([] if only_colours else page.evaluate(MISPLACED.read_text()))
