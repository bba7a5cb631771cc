"""omni keys: named API keys with limits, in Redis. The service need not be restarted, nor even run."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import click
from redis.exceptions import RedisError

from cli.table import table
from common.errors import OmniError
from common.redis.connection import connect
from common.redis.key_store import KeyLimits, KeyStore


class Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OmniError as error:
            raise click.ClickException(error.message) from None
        except RedisError as error:
            raise click.ClickException(f"Redis does not answer ({error}); is the service running?") from None


def limit_options(function: Callable[..., None]) -> Callable[..., None]:
    for name, kind, text in (
        ("--max-in-flight", int, "Requests waiting and running at once; 0 is no limit."),
        ("--max-queued", int, "Requests waiting at once; 0 is no limit."),
        ("--tokens-per-minute", int, "Prompt and answer; 0 is no limit."),
        ("--max-kept-bytes", int, "Of its requests and answers, until they expire; 0 is no limit of its own."),
        ("--weight", float, "Its share of the line beside other keys; 1 is the ordinary one."),
        ("--priority", int, "How far its requests may go ahead: `priority` may be as low as minus this."),
    ):
        function = click.option(name, type=kind, help=text)(function)
    return click.option("--admin/--no-admin", default=None, help="May see and cancel all jobs, and read /metrics.")(
        function
    )


def changed(limits: KeyLimits, given: dict[str, Any]) -> KeyLimits:
    named = {name: value for name, value in given.items() if value is not None}
    if "admin" in named:
        named["admin"] = int(named["admin"])
    return replace(limits, **named)


def told(limits: KeyLimits) -> list[Any]:
    """As people read it: a limit of 0 is none."""
    values = asdict(limits)
    names = ("max_in_flight", "max_queued", "tokens_per_minute", "max_kept_bytes")
    caps = ["-" if values[name] == 0 else values[name] for name in names]
    return [*caps, f"{limits.weight:g}", limits.priority, "yes" if limits.admin else "no"]


@click.group(cls=Group)
@click.pass_context
def keys(context: click.Context) -> None:
    """Add, list, limit and revoke API keys."""
    context.obj = KeyStore(connect(context.obj["settings"]().redis.url))


@keys.command()
@click.argument("name")
@limit_options
@click.pass_obj
def add(store: KeyStore, /, name: str, **given: Any) -> None:
    """Make a key called NAME and print it, this once."""
    click.echo(store.add(name, changed(KeyLimits(), given)))
    click.secho("Shown once; only its hash is kept.", dim=True, err=True)


@keys.command("list")
@click.pass_obj
def list_keys(store: KeyStore) -> None:
    """All managed keys, what they may do, and what they have in the line and in work."""
    rows = []
    for record in store.all():
        queued, running = store.usage(record.owner)
        made = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d")
        kept = f"{store.kept_bytes(record.owner) / 2**20:.1f} MiB"
        rows.append((record.name, made, *told(record.limits), queued, running, kept))
    names = (
        "name",
        "made",
        "max in flight",
        "max queued",
        "tokens/min",
        "max kept bytes",
        "weight",
        "priority",
        "admin",
        "waiting",
        "running",
        "kept",
    )
    click.echo(table(names, rows))


@keys.command()
@click.argument("name")
@limit_options
@click.pass_obj
def limits(store: KeyStore, /, name: str, **given: Any) -> None:
    """Change what the key NAME may do; holds for its next request."""
    record = next((record for record in store.all() if record.name == name), None)
    if record is None:
        raise click.ClickException(f"There is no key named {name!r}.")
    store.set_limits(name, changed(record.limits, given))


@keys.command()
@click.argument("name")
@click.pass_obj
def revoke(store: KeyStore, name: str) -> None:
    """Refuse the key NAME from now on (within a second); its jobs go on."""
    store.revoke(name)
