"""OMNI_MODELS as the command line reads it: its file need not be there yet, nor the other settings be right."""

from pathlib import Path

import click

from common.environment import callers_folder, child_environment
from common.setting_types import read_file
from common.shelf.table import TableModel, no_such_model, read_table

BEGIN = (
    "OMNI_MODELS is not set. To serve several models, write OMNI_MODELS=models.toml into .env, then run "
    "omni models add MODEL for each."
)


def table_path() -> Path:
    """OMNI_MODELS, of which the file need not be there yet. Raises ClickException without it."""
    if not (table := values().get("OMNI_MODELS", "")):
        raise click.ClickException(BEGIN)
    return Path(table).expanduser()


def as_written(model: str) -> str:
    """A path as the caller's shell means it; anything else as it is."""
    path = callers_folder() / Path(model).expanduser()
    return str(path.absolute()) if path.exists() and model != "demo" else model


def values() -> dict[str, str]:
    return read_file(Path(".env")) | child_environment()


def named(path: Path, name: str) -> TableModel:
    found = read_table(path)
    for model in found:
        if name in model.ids:
            return model
    raise no_such_model(path, name, found)
