"""`omni COMMAND`: one file per command."""

import click
from click.core import ParameterSource

from cli.backup import backup, restore
from cli.batch import batch
from cli.bench import bench
from cli.chat import chat
from cli.doctor import doctor
from cli.fit import fit
from cli.jobs import cancel, jobs
from cli.keys import keys
from cli.models import models
from cli.serve import serve
from cli.status import ps, status
from cli.usage import usage
from cli.webhooks import webhooks
from common import __version__
from common.settings import SettingsError, load_settings


class OmniGroup(click.Group):
    """Reports a refused setting as one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.ClickException(str(error)) from None


@click.group(
    cls=OmniGroup,
    commands=(
        serve,
        chat,
        status,
        ps,
        batch,
        jobs,
        cancel,
        keys,
        models,
        usage,
        webhooks,
        bench,
        doctor,
        fit,
        backup,
        restore,
    ),
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
