"""The documents name only what exists: files, links, modules and their options, commands, make targets, settings."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from cli.main import main as omni
from tests.test_house import ARROWS

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("[A-Z]*.md"), ROOT / "demo" / "README.md"])
WITHOUT_CHANGES = [path for path in DOCS if path.name != "CHANGELOG.md"]  # a past version may have had other files
SUFFIXES = "py|lua|c|h|md|json|yml|yaml|conf|toml|txt|lock|service|target|sh|jinja|png"

every_document = pytest.mark.parametrize("path", WITHOUT_CHANGES, ids=lambda path: str(path.relative_to(ROOT)))


def code_of(path: Path) -> list[str]:
    """Inline code, and the lines of code blocks."""
    text = path.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    return [*re.findall(r"`([^`\n]+)`", text), *indented, *"".join(blocks).replace("\\\n", " ").splitlines()]


@cache
def names_of_files() -> set[str]:
    folders = ("api", "worker", "common", "cli", "bench", "demo", "deploy", "docs", "tests")
    return {path.name for folder in folders for path in (ROOT / folder).rglob("*")} | {p.name for p in ROOT.iterdir()}


def anchors_of(path: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def modules_in(path: Path) -> Iterator[tuple[str, str]]:
    """(module, the rest of its command line) of each `python -m`."""
    for code in code_of(path):
        for module, rest in re.findall(r"python -m ([\w.]+)([^#|]*)", code):
            yield module.rstrip("."), rest


def file_of(module: str) -> Path | None:
    stem = ROOT / module.replace(".", "/")
    return next((found for found in (stem.with_suffix(".py"), stem / "__main__.py") if found.exists()), None)


@every_document
def test_files_exist(path: Path) -> None:
    named = {name for code in code_of(path) for name in re.findall(rf"[\w./*-]*\w\.(?:{SUFFIXES})\b", code)}
    ours = {name.removeprefix("./") for name in named if not name.startswith(("/", "~", "."))}
    in_folders = {name for name in ours if "/" in name and (ROOT / name.split("/")[0]).is_dir()}
    assert [name for name in sorted(in_folders) if not any(ROOT.glob(name))] == []
    python = {name for name in ours if "/" not in name and name.endswith((".py", ".lua"))}
    programs = set(re.findall(r"^```\w+\n# (\w+\.py)$", path.read_text(), re.MULTILINE))  # in the document itself
    assert python - programs - names_of_files() == set()


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), target


@every_document
def test_modules_and_their_options_exist(path: Path) -> None:
    for module, rest in modules_in(path):
        found = file_of(module)
        assert found is not None, module
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", rest.split(" -- ")[0]):
            assert f'"{option}"' in sources_beside(found), (module, option)


@cache
def sources_beside(file: Path) -> str:
    """An option may be declared by another file of the same package."""
    return "\n".join(path.read_text() for path in file.parent.glob("*.py"))


@every_document
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for code in code_of(path) for name in re.findall(r"^(?:[A-Z_]+=.* )?make ([a-z][\w-]*)", code)}
    assert named - targets == set()


@every_document
def test_commands_of_omni_exist(path: Path) -> None:
    named = {name for code in code_of(path) for name in re.findall(r"^(?:\./)?omni ([a-z]+)\b", code)}
    assert named - set(omni.commands) == set()


@every_document
def test_settings_exist(path: Path) -> None:
    known = set(re.findall(r"^#? ?(OMNI_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    known |= set(re.findall(r"\$\{(OMNI_\w+)", (ROOT / "deploy" / "compose.yaml").read_text()))
    assert set(re.findall(r"\bOMNI_\w*[A-Z]\b", path.read_text())) - known == set()


def test_every_page_has_a_place_in_the_site() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)["nav"]  # its tags are mkdocs' own
    entries = [entry for section in nav for pages in section.values() for entry in pages]
    listed = {page for entry in entries for page in entry.values() if page} - {p.name for p in ROOT.glob("[A-Z]*.md")}
    pages = {str(path.relative_to(ROOT / "docs")) for path in DOCS if path.is_relative_to(ROOT / "docs")}
    assert listed == {page for page in pages if not page.startswith("decisions/")}  # .ci/site.py lists decisions


def test_every_decision_has_its_head_and_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        text, number = path.read_text(), int(path.name.partition("-")[0])
        assert text.startswith(f"# {number}. ") and path.name.startswith(f"{number:04}-")
        assert re.search(r"^- Date: \d{4}-\d\d-\d\d", text, re.MULTILINE), path
        assert re.search(r"^- Status: (Accepted|Amended|Superseded by)", text, re.MULTILINE), path
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Not chosen", "Consequences"], (
            path
        )
        assert f"]({path.name})" in index
    numbers = [int(number) for number in re.findall(r"^\| \[(\d+)\]", index, re.MULTILINE)]
    assert numbers == sorted(set(numbers))


def test_every_control_of_the_chaos_tests_is_described() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "chaos").glob("*scenarios.py"))
    controls = set(re.findall(r'^    "(\w+)": \w+,$', sources, re.MULTILINE))
    described = (ROOT / "docs" / "architecture" / "durability.md").read_text()
    assert controls and {name for name in controls if f"`{name}`" not in described} == set()


def test_the_overview_shows_the_arrows_of_the_house() -> None:
    text = (ROOT / "docs" / "architecture" / "overview.md").read_text()
    section = text.split("## Who may import whom")[1].split("\n## ")[0]
    cells = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("| `")]
    rows = [(re.findall(r"`([\w/]+)`", packages), re.findall(r"`(\w+)`", imported)) for packages, imported in cells]
    shown = {package: set(imported) for packages, imported in rows for package in packages}
    packages = {init.parent for house in ARROWS for init in (ROOT / house).glob("*/__init__.py")}
    held = {
        f"{house}/{room}": {name for name in allowed if ROOT / house / name in packages}
        for house, arrows in ARROWS.items()
        for room, allowed in arrows.items()
        if ROOT / house / room in packages
    }
    assert shown == held
    for at, (_, imported) in enumerate(rows):
        lower = {package.split("/")[1] for below, _ in rows[at + 1 :] for package in below}
        assert set(imported) <= lower
