"""omni keys: named API keys with limits, kept in Redis. Changes need no restart and no running service."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from redis.exceptions import RedisError

from cli.terminal import CallersPath, json_option, show_json, show_note, show_table
from common.errors import OmniError
from common.redis.connection import connect
from common.redis.key_store import KeyLimits, KeyRecord, KeyStore

NOTICED_S = 2.0  # by then every API process refuses a key that was revoked
SETTINGS = "omni.settings"  # in the context's `meta`


class KeysGroup(click.Group):
    """Reports an error of Redis, or a refusal, as one sentence."""

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
        ("--tokens-per-day", int, "Prompt and answer, from 00:00 UTC; 0 is no limit."),
        ("--max-kept-bytes", int, "Requests and answers kept until they expire; 0 is no limit of its own."),
        ("--weight", float, "Share of the queue relative to other keys; 1 is normal."),
        ("--priority", int, "How far requests may move ahead: `priority` may be as low as minus this."),
        ("--tiers", str, "Service tiers that requests may use: some of priority,default,flex."),
    ):
        function = click.option(name, type=kind, help=text)(function)
    return click.option("--admin/--no-admin", default=None, help="May see and cancel all jobs, and read /metrics.")(
        function
    )


def named(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were written."""
    return {name: value for name, value in given.items() if value is not None}


def changed(limits: KeyLimits, given: dict[str, Any]) -> KeyLimits:
    written = named(given)
    if "admin" in written:
        written["admin"] = int(written["admin"])
    return replace(limits, **written)


def cells(limits: KeyLimits) -> list[Any]:
    """The cells of a row of `omni keys list`; a limit of 0 shows as -."""
    values = asdict(limits)
    names = ("max_in_flight", "max_queued", "tokens_per_minute", "tokens_per_day", "max_kept_bytes")
    caps = ["-" if values[name] == 0 else values[name] for name in names]
    return [
        *caps,
        f"{limits.weight:g}",
        limits.priority,
        ",".join(limits.allowed_tiers),
        "yes" if limits.admin else "no",
    ]


@click.group(cls=KeysGroup)
@click.pass_context
def keys(context: click.Context) -> None:
    """Add, list, limit, revoke, export and purge API keys."""
    settings = context.meta[SETTINGS] = context.obj["settings"]()
    context.obj = KeyStore(connect(settings.redis.url))


@keys.command()
@click.argument("name")
@limit_options
@json_option
@click.pass_context
def add(context: click.Context, /, name: str, as_json: bool, **given: Any) -> None:
    """Create the key NAME and print it; it cannot be shown again."""
    from cli.audit import audited

    store: KeyStore = context.obj
    with audited(context.meta[SETTINGS], "key.create", name, **named(given)):
        key = store.add(name, changed(KeyLimits(), given))
    if as_json:
        show_json({"key": key} | as_object(store, record_of(store, name)))
    else:
        click.echo(key)
    show_note("Shown once; only its hash is kept.")


@keys.command("list")
@json_option
@click.pass_obj
def list_keys(store: KeyStore, as_json: bool) -> None:
    """List keys with their limits and what they use now."""
    if as_json:
        show_json([as_object(store, record) for record in store.all()])
        return
    rows = []
    for record in store.all():
        queued, running = store.usage(record.owner)
        made = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d")
        kept = f"{store.kept_bytes(record.owner) / 2**20:.1f} MiB"
        rows.append((record.name, made, *cells(record.limits), queued, running, kept))
    names = (
        "name",
        "created",
        "max in flight",
        "max queued",
        "tokens/min",
        "tokens/day",
        "max kept bytes",
        "weight",
        "priority",
        "tiers",
        "admin",
        "waiting",
        "running",
        "kept",
    )
    show_table(names, rows)


def as_object(store: KeyStore, record: KeyRecord) -> dict[str, Any]:
    queued, running = store.usage(record.owner)
    counts = {"waiting": queued, "running": running, "kept_bytes": store.kept_bytes(record.owner)}
    limits = asdict(record.limits) | {"tiers": record.limits.allowed_tiers, "admin": bool(record.limits.admin)}
    return {"name": record.name, "owner": record.owner, "created": record.created, "limits": limits} | counts


def record_of(store: KeyStore, name: str) -> KeyRecord:
    """Raises ClickException without it."""
    known = {record.name: record for record in store.all()}
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "omni keys list shows them."
        raise click.ClickException(f"There is no key named {name!r}; {hint}")
    return known[name]


@keys.command()
@click.argument("name")
@limit_options
@json_option
@click.pass_context
def limits(context: click.Context, /, name: str, as_json: bool, **given: Any) -> None:
    """Change the limits of the key NAME, from its next request on."""
    from cli.audit import audited

    if not named(given):
        raise click.UsageError("Name a limit to change, such as --max-in-flight 8; omni keys list shows them.")
    store: KeyStore = context.obj
    record = record_of(store, name)
    with audited(context.meta[SETTINGS], "key.limit", name, **named(given)):
        store.set_limits(name, changed(record.limits, given))
    if as_json:
        show_json(as_object(store, record_of(store, name)))
    else:
        show_note(f"{name}: changed.")


@keys.command()
@click.argument("name")
@json_option
@click.pass_context
def revoke(context: click.Context, name: str, as_json: bool) -> None:
    """Refuse the key NAME within a second; its jobs continue."""
    from cli.audit import audited

    store: KeyStore = context.obj
    record = record_of(store, name)
    with audited(context.meta[SETTINGS], "key.revoke", name):
        store.revoke(name)
    if as_json:
        show_json({"name": name, "owner": record.owner, "revoked": True})
    else:
        show_note(f"{name} is revoked. What it owns stays until: omni keys purge {record.owner}")


@keys.command()
@click.argument("name")
@click.option("--out", "folder", required=True, type=CallersPath(), help="A folder that is not there yet.")
@json_option
@click.pass_context
def export(context: click.Context, name: str, folder: Path, as_json: bool) -> None:
    """Write all that the key NAME owns: JSON lines, and its files."""
    from cli.audit import audited
    from cli.owned import Belongings, owner_of_name  # SQLAlchemy, for which other commands need not wait

    store: KeyStore = context.obj
    owner, _ = owner_of_name(store, name)
    if folder.exists():
        raise click.ClickException(f"{folder} is there already; name a new folder.")
    settings = context.meta[SETTINGS]
    with audited(settings, "key.export", name, folder=str(folder)):
        counts = Belongings(settings, store.redis, owner).export(folder)
    if as_json:
        show_json({"folder": str(folder), "written": counts})
    else:
        show_table(("what", "number"), sorted((what, number) for what, number in counts.items() if number))


@keys.command()
@click.argument("name")
@click.option("--keep-usage", is_flag=True, help="Leave the counts of its usage, which hold no text.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def purge(context: click.Context, name: str, keep_usage: bool, yes: bool, as_json: bool) -> None:
    """Revoke the key NAME and delete all that it owns. Its jobs and batches end."""
    from cli.audit import audited
    from cli.owned import Belongings, owner_of_name

    store: KeyStore = context.obj
    owner, exists = owner_of_name(store, name)
    if not yes:
        question = f"Delete all that {name!r} owns (answers, conversations, files, batches) for good?"
        click.confirm(question, abort=True, err=True)
    settings = context.meta[SETTINGS]
    with audited(settings, "key.purge", name, keep_usage=keep_usage):
        if exists:
            store.revoke(next(record.name for record in store.all() if record.owner == owner))
            time.sleep(NOTICED_S)
        belongings = Belongings(settings, store.redis, owner)
        belongings.end()
        num_deleted = belongings.delete(keep_usage=keep_usage)
    if as_json:
        show_json({"name": name, "owner": owner, "records_deleted": num_deleted})
    else:
        show_note(f"{num_deleted} records deleted.")
