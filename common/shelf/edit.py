"""Edits of the table's file. They keep its comments and its order, and are checked before they replace it."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import AoT

from common.shelf.table import TableFault, TableModel, file_at, no_model_of, parse_table, read_table

HEADER = re.compile(r"\s*\[\[\s*model\s*\]\]")
MODE = 0o644  # of a new file


def add_model(path: Path, keys: Mapping[str, Any]) -> TableModel:
    """Append a [[model]]; the file is made if there is none. Raises TableFault."""
    table = tomlkit.table()
    for key, value in keys.items():
        table.add(key, inline(value) if isinstance(value, Mapping) else value)
    document = tomlkit.document()
    tables = tomlkit.aot()
    tables.append(table)
    document["model"] = tables

    def add(text: str) -> str:
        return (f"{text.rstrip()}\n\n" if text.strip() else "") + tomlkit.dumps(document)

    return edit(path, add)[-1]


def remove_model(path: Path, name: str) -> TableModel:
    """Take out the [[model]] with this id, and the comment above it. Raises TableFault."""
    models = read_table(path)
    at = index_of(models, name, path)
    if len(models) == 1:
        raise TableFault(f"{path}: {name!r} is the only model; to serve OMNI_MODEL again, remove OMNI_MODELS.")

    def remove(text: str) -> str:
        head, *blocks = blocks_of(text, len(models), path)
        return head + "".join(blocks[:at] + blocks[at + 1 :])

    edit(path, remove)
    return models[at]


def set_key(path: Path, name: str, key: str, value: object) -> TableModel:
    """Write one key of the [[model]] with this id; None takes the key out. Raises TableFault."""
    models = read_table(path)
    at = index_of(models, name, path)

    def change(text: str) -> str:
        head, *blocks = blocks_of(text, len(models), path)
        document = tomlkit.parse(f"{blocks[at].rstrip()}\n")
        space = blocks[at][len(blocks[at].rstrip()) :].removeprefix("\n")
        tables = document["model"]
        assert isinstance(tables, AoT)
        if value is not None:
            tables[0][key] = value
        elif key in tables[0]:
            tables[0].remove(key)
        blocks[at] = tomlkit.dumps(document) + space
        return head + "".join(blocks)

    return edit(path, change)[at]


def blocks_of(text: str, num_models: int, path: Path) -> list[str]:
    """What stands before the models, and each [[model]] with the comment above it. Raises TableFault."""
    lines = text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if HEADER.match(line)]
    if len(starts) != num_models:
        raise TableFault(f"{path} is written in another form than a [[model]] line for each model; edit it by hand.")
    for number, start in enumerate(starts):
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        starts[number] = start
    return ["".join(lines[start:end]) for start, end in pairwise([0, *starts, len(lines)])]


def index_of(models: tuple[TableModel, ...], name: str, path: Path) -> int:
    """Raises TableFault for an id that no model has."""
    for at, model in enumerate(models):
        if name in model.ids:
            return at
        if name in dict(model.adapters):
            raise TableFault(f"{path}: {name!r} is an adapter of {model.queue!r}; change the adapters of that model.")
    raise no_model_of(path, name, models)


def edit(path: Path, change: Callable[[str], str]) -> tuple[TableModel, ...]:
    """The models after the change, which is on the disk whole or not at all. Raises TableFault."""
    path = file_at(path)
    before = text_of(path)
    after = change(before)
    models = parse_table(after, path)
    try:
        write(path.resolve(), before, after)  # a link stays one
    except OSError as error:
        raise TableFault(f"{path} cannot be written ({error.strerror}).") from None
    return models


def text_of(path: Path) -> str:
    """Empty without a file. Raises TableFault."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise TableFault(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}).") from None


def write(path: Path, before: str, after: str) -> None:
    """Raises OSError, and TableFault if another has changed the file since it was read."""
    file, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(after)
            os.fchmod(out.fileno(), path.stat().st_mode & 0o7777 if path.exists() else MODE)
            out.flush()
            os.fsync(out.fileno())
        if text_of(path) != before:
            raise TableFault(f"{path} was changed meanwhile; look into it and try again.")
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def inline(value: Mapping[str, Any]) -> Any:
    table = tomlkit.inline_table()
    table.update(value)
    return table
