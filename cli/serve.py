"""omni serve: all processes of the Procfile in this terminal."""

import os
import sys
from pathlib import Path

import click

from cli.model_table import as_written
from common.environment import child_environment

ROOT = Path(__file__).resolve().parent.parent


@click.command()
@click.option("--host", help="OMNI_HOST: where to listen.")
@click.option("--port", type=int, help="OMNI_PORT.")
@click.option("--model", help="OMNI_MODEL: a folder, a .gguf file, a Hugging Face id, or demo.")
@click.argument("processes", nargs=-1)
def serve(host: str | None, port: int | None, model: str | None, processes: tuple[str, ...]) -> None:
    """Start the service, or only the named PROCESSES of it.

    They are redis, api, worker, embedder, dispatcher and dashboard. Settings, model, data folder and ports are checked
    before. Ctrl-C ends them all.
    """
    given = {"OMNI_HOST": host, "OMNI_PORT": port, "OMNI_MODEL": None if model is None else as_written(model)}
    environment = child_environment(**{name: str(value) for name, value in given.items() if value is not None})
    os.chdir(ROOT)  # where the packages are
    os.execve(sys.executable, [sys.executable, "-m", "common.process.start", *processes], environment)
