"""omni bench: the load generator of bench/load.py against the running service."""

import os
import runpy
import sys

import click

from cli.client import client_of
from cli.serve import ROOT


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Load the service and print latencies and rates. ARGUMENTS are those of bench/load.py; try --help."""
    client = client_of(context)
    os.chdir(ROOT)
    # in this process, because another process's command line would show the key
    sys.argv = ["omni bench", "--target", f"here={client.url}/v1", "--key", client.key, *arguments]
    try:
        runpy.run_module("bench.load", run_name="__main__")
    except ModuleNotFoundError as error:
        sentence = f"omni bench needs the Python package {error.name}; install it with: make -C {ROOT} .venv/.test"
        raise click.ClickException(sentence) from None
