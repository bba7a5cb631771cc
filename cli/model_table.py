"""OMNI_MODELS as the command line reads it: its file need not be there yet, nor the other settings be right."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from cli.terminal import callers_path
from common.environment import child_environment
from common.setting_types import read_file
from common.settings import read_settings
from common.shelf.table import TableModel, file_at, no_model_of, read_table

BEGIN = (
    "OMNI_MODELS is not set. To serve several models, write OMNI_MODELS=models.toml into .env, then run "
    "omni models add MODEL for each."
)


def table_path() -> Path:
    """OMNI_MODELS, of which the file need not be there yet. Raises ClickException without it."""
    if not (table := values().get("OMNI_MODELS", "")):
        raise click.ClickException(BEGIN)
    return file_at(Path(table))


def as_written(model: str) -> str:
    """A path as the caller's shell means it; anything else as it is."""
    path = callers_path(model)
    return str(path.absolute()) if os.path.exists(path) and model != "demo" else model


def audited_table(action: str, name: str, **details: Any) -> AbstractContextManager[None]:
    """An edit of the table happens inside, and is in the audit log."""
    from cli.audit import audited_if_kept  # 0.2 s that the other commands need not wait

    known = values()
    settings = read_settings({name: known[name] for name in ("OMNI_STORE_URL", "OMNI_DATA_DIR") if name in known})
    return audited_if_kept(settings, action, name, **details)


def values() -> dict[str, str]:
    return read_file(Path(".env")) | child_environment()


def named(path: Path, name: str) -> TableModel:
    found = read_table(path)
    for model in found:
        if name in model.ids:
            return model
    raise no_model_of(path, name, found)
