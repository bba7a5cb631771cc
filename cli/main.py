"""`omni COMMAND`: one file per command, loaded when it is called."""

import errno
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType

import click
from click.core import ParameterSource

from common import __version__
from common.settings import SettingsError, load_settings

SECTIONS = MappingProxyType(
    {
        "Run": {"serve": "serve", "doctor": "doctor", "fit": "fit", "status": "status", "ps": "status", "logs": "logs"},
        "Use": {"chat": "chat", "batch": "batch", "jobs": "jobs", "cancel": "jobs", "bench": "bench"},
        "Look after": {
            "models": "models",
            "keys": "keys",
            "usage": "usage",
            "webhooks": "webhooks",
            "audit": "audit",
            "backup": "backup",
            "restore": "backup",
        },
    }
)  # of the help: command -> the module of cli/ that has it under this name


class LoadedWhenCalled(Mapping[str, click.Command]):
    """Commands by name. A call need not wait for the libraries of the others."""

    def __init__(self) -> None:
        self._modules = {name: module for section in SECTIONS.values() for name, module in section.items()}

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"cli.{self._modules[name]}"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules


class OmniGroup(click.Group):
    """Lists its commands in sections, and reports a refused setting as one sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(66)) for name in names])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise click.ClickException("The output cannot be written: no space is left there.") from None


@click.group(
    cls=OmniGroup,
    commands=LoadedWhenCalled(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--url",
    envvar="OPENAI_BASE_URL",
    help="Address of the service, with or without /v1. Default: OPENAI_BASE_URL, else OMNI_HOST and OMNI_PORT.",
)
@click.option(
    "--key",
    envvar="OPENAI_API_KEY",
    help="API key. Default: OPENAI_API_KEY if there is --url or OPENAI_BASE_URL, else the first key of the settings.",
)
@click.version_option(__version__, message="Protocol OMNI %(version)s")
@click.pass_context
def main(context: click.Context, url: str | None, key: str | None) -> None:
    """Run, use and look after Protocol OMNI."""
    sources = {name: context.get_parameter_source(name) for name in ("url", "key")}
    of_environment = [name for name, source in sources.items() if source is ParameterSource.ENVIRONMENT]
    if url is None and "key" in of_environment:  # it is for another server
        key = None
    context.obj = {"url": url, "key": key, "settings": load_settings, "of_environment": of_environment}
