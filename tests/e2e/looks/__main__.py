"""Pictures of every state of the pages, with what axe finds in each and what is cut off or covered.

python -m tests.e2e.looks OUT                     all of them; OUT/index.html shows them side by side
python -m tests.e2e.looks OUT --only board table  those whose names have one of these words
python -m tests.e2e.looks OUT --sizes zoomed      desk, phone, zoomed (200 %)
python -m tests.e2e.looks docs/images --docs      the pictures of the documents
"""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, sync_playwright

from tests.e2e.conftest import CHROMIUM, FLAGS
from tests.e2e.looks.answering import ANSWERING
from tests.e2e.looks.chat import CHAT
from tests.e2e.looks.pages import PAGES
from tests.e2e.looks.visit import SCHEMES, SIZES, faults, settle, visit

STATES = {reach.__name__: reach for reach in (*CHAT, *ANSWERING, *PAGES)}
DOCUMENTS = {"chat": "many_chats", "board": "board_of_models", "batches": "batches_many"}
SHEET = """<!doctype html><meta charset="utf-8"><title>The pages in every state</title>
<style>body {{ font: 14px system-ui; }} figure {{ display: inline-block; margin: 6px; vertical-align: top; }}
img {{ max-height: 420px; border: 1px solid #888; }} li {{ color: #b42318; }}</style>{sections}"""


def photograph(browser: Any, name: str, size: str, given: argparse.Namespace) -> list[str]:
    """A picture for each scheme. What is wrong, by scheme."""
    told = []
    try:
        with visit(browser, size, STATES[name], given.scale) as page:
            for scheme in SCHEMES:
                settle(page, scheme)
                page.screenshot(path=given.out / f"{name}.{size}.{scheme}.png")
                found = [] if given.unchecked else faults(page, only_colours=scheme != SCHEMES[0])
                told += [f"{name}, {size}, {scheme}: {fault}" for fault in found]
    except Error as error:
        told.append(f"{name}, {size}: not reached: {error.message}")
    return told


def illustrate(browser: Any, out: Path) -> None:
    """The documents' pictures, under their names there."""
    for picture, name in DOCUMENTS.items():
        with visit(browser, "desk", STATES[name]) as page:
            settle(page, "light")
            page.screenshot(path=out / f"{picture}.png")


def sheet(out: Path, names: Sequence[str], told: Sequence[str]) -> str:
    def section(name: str) -> str:
        pictures = [path.name for path in sorted(out.glob(f"{name}.*.png"))]
        shown = "".join(f'<figure><a href="{one}"><img src="{one}" loading="lazy"></a></figure>' for one in pictures)
        found = "".join(f"<li>{html.escape(line)}" for line in told if line.startswith(f"{name},"))
        return f"<h2>{name.replace('_', ' ')}</h2><ul>{found}</ul>{shown}"

    return SHEET.format(sections="".join(map(section, names)))


def survey(browser: Any, given: argparse.Namespace) -> list[str]:
    names = [name for name in STATES if any(word in name for word in given.only)]
    told = []
    for name in names:
        for size in given.sizes:
            found = photograph(browser, name, size, given)
            print(f"{name} {size}", *found, sep="\n  ", flush=True)
            told += found
    (given.out / "index.html").write_text(sheet(given.out, names, told))
    print(f"{len(names)} states, {len(told)} faults: {given.out / 'index.html'}")
    return told


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.looks", description=__doc__, formatter_class=form)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--sizes", nargs="+", default=["desk", "phone"], choices=SIZES)
    parser.add_argument("--scale", type=float, default=1, help="pixels of a picture for each of the page")
    parser.add_argument("--unchecked", action="store_true", help="pictures alone, in half the time")
    parser.add_argument("--docs", action="store_true", help="the pictures of the documents alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        told = illustrate(browser, given.out) if given.docs else survey(browser, given)
        browser.close()
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
