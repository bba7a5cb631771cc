"""`omni COMMAND`: one file per command."""

import click

from cli.batch import batch
from cli.bench import bench
from cli.chat import chat
from cli.doctor import doctor
from cli.fit import fit
from cli.jobs import cancel, jobs
from cli.keys import keys
from cli.models import models
from cli.serve import serve
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
    commands=(serve, chat, batch, jobs, cancel, keys, models, usage, webhooks, bench, doctor, fit),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--url", help="Base URL of the service. Default: from OMNI_HOST and OMNI_PORT.")
@click.option("--key", help="API key. Default: the first admin key of the settings.")
@click.version_option(__version__, message="Protocol OMNI %(version)s")
@click.pass_context
def main(context: click.Context, url: str | None, key: str | None) -> None:
    """Run, use and look after Protocol OMNI."""
    context.obj = {"url": url, "key": key, "settings": load_settings}
