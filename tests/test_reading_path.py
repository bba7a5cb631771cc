"""docs/architecture/reading-path.md is true: its parts exist, are in the order of imports, and are short."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "architecture" / "reading-path.md"
MAX_LINES = 1500
OURS = ("api", "worker", "common")


@dataclass(frozen=True, slots=True)
class Stop:
    """One row: a file, and the functions of it to read (none: all of it)."""

    number: int
    process: str  # the heading above it
    file: Path
    parts: tuple[str, ...]


def stops() -> list[Stop]:
    found, process = [], ""
    for line in PATH.read_text().splitlines():
        if line.startswith("## "):
            process = line[3:]
        elif row := re.match(r"\| (\d+) \| `([\w./]+)` \| (.*?) \|", line):
            number, name, parts = row.groups()
            found.append(Stop(int(number), process, ROOT / name, tuple(re.findall(r"`([\w.]+)`", parts))))
    return found


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Functions and classes by name; methods as `Class.method`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{node.name}.")


def num_lines(stop: Stop) -> int:
    text = stop.file.read_text()
    if not stop.parts:
        return len(text.splitlines())
    known = dict(definitions(ast.parse(text).body))
    return sum((known[part].end_lineno or 0) - known[part].lineno + 1 for part in stop.parts)


@cache
def imports_of(file: Path) -> frozenset[Path]:
    """Files of ours that a file imports."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT / (name.replace(".", "/") + ".py")
            if name.split(".")[0] in OURS and path.exists():
                found.add(path)
    return frozenset(found)


def reached_from(files: list[Path]) -> set[Path]:
    """The files, and all that they import, directly or through others."""
    seen: set[Path] = set()
    todo = [file for file in files if file.suffix == ".py"]
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo.extend(imports_of(file))
    return seen


def test_the_path_is_numbered_and_its_files_and_functions_exist() -> None:
    path = stops()
    assert [stop.number for stop in path] == list(range(1, len(path) + 1))
    assert len({stop.file for stop in path}) == len(path)  # each file is opened once
    for stop in path:
        assert stop.file.exists(), stop.file
        if stop.parts:
            known = dict(definitions(ast.parse(stop.file.read_text()).body))
            assert [part for part in stop.parts if part not in known] == [], stop.file


def test_the_path_is_short() -> None:
    assert sum(num_lines(stop) for stop in stops()) <= MAX_LINES


def test_each_file_is_reached_from_those_before_it() -> None:
    """By imports; a script by its name. The worker's first file is on the other side of Redis: nothing imports it."""
    before: list[Path] = []
    for stop in stops():
        top = stop.file.relative_to(ROOT).parts[0]
        is_first_of_worker = top == "worker" and not any(file.is_relative_to(ROOT / "worker") for file in before)
        reached = reached_from(before)
        if stop.file.suffix == ".lua":
            assert any(f'"{stop.file.stem}"' in file.read_text() for file in reached), stop.file
        elif before and not is_first_of_worker:
            assert stop.file in reached, stop.file
        before.append(stop.file)


def test_the_path_leads_through_all_processes() -> None:
    visited = [stop.process for stop in stops()]
    assert sorted(set(visited), key=visited.index) == [
        "In the API",
        "In the worker",
        "Back in the API",
    ]
