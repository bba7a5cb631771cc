"""What mkdocs does besides mkdocs.yml: pages from outside docs/, links to them, decisions, tabs."""

import posixpath
import re
from pathlib import Path
from textwrap import indent
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "README.md", ".env.example", "bench/service_times.json")
LANGUAGES = {"bash": "Shell", "python": "Python", "javascript": "JavaScript"}
PROGRAM = rf"```(?:{'|'.join(LANGUAGES)})\n(?:(?!```).*\n)*```\n"
PROGRAMS = re.compile(rf"^{PROGRAM}(?:\n{PROGRAM})+", re.MULTILINE)  # that follow each other
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def place(path: str) -> str:
    """Where a file of the repository stands in the site."""
    return path.removeprefix("docs/").replace(".env.example", "env.example.txt")


def on_config(config: Any) -> Any:
    decisions = [f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("0*.md"))]
    config.nav[-1]["Project"][-1]["Decisions"] = ["decisions/README.md", *decisions]
    return config


def on_files(files: Files, config: Any) -> Files:
    for path in OUTSIDE:
        if path != "README.md":  # GitHub's first page; index.md is ours
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that lead out of docs/ on GitHub lead to the copies here."""
    uri = page.file.src_uri
    folder = posixpath.dirname(uri if uri in OUTSIDE else f"docs/{uri}")

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return found[1]
        here = "index.md" if target == "README.md" else place(target)
        return posixpath.relpath(here, posixpath.dirname(uri) or ".")

    return PROGRAMS.sub(tabs, LINK.sub(moved, markdown))


def tabs(programs: re.Match[str]) -> str:
    """The same program in several languages: one tab for each."""
    blocks = re.findall(PROGRAM, programs[0])
    languages = [block[3 : block.index("\n")] for block in blocks]
    if len(set(languages)) < len(languages):
        return programs[0]
    shown = zip(languages, blocks, strict=True)
    return "\n".join(f'=== "{LANGUAGES[name]}"\n\n{indent(block, "    ")}' for name, block in shown)
