"""omni audit: what operators changed; and what `omni` itself changes, into the same log."""

import getpass
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from cli.client import client_of
from cli.logs import Since
from cli.terminal import json_option, limit_option, moment, note_more, show_json, show_note, show_table
from common.records.audit import AuditedChange, recorded
from common.records.database import Records, StoreError
from common.records.migrate import SchemaTooNew
from common.settings import Settings

NAMES = ("at", "who", "from", "what", "on", "outcome", "details")


@contextmanager
def audited(settings: Settings, action: str, target: str, **details: Any) -> Iterator[None]:
    """What a command does happens inside. Raises ClickException before it if it cannot be recorded."""
    change = AuditedChange(f"{user_name()}@{socket.gethostname()}", action, target, details)
    with ExitStack() as stack:
        try:
            stack.enter_context(recorded(Records(settings.store_url), change))
        except StoreError as error:
            raise click.ClickException(
                f"The store does not answer ({type(error).__name__}; OMNI_STORE_URL). Nothing was done: what operators "
                "do goes into its audit log first."
            ) from None
        except SchemaTooNew as error:
            raise click.ClickException(f"{error.message} Nothing was done.") from None
        yield


def audited_if_kept(settings: Settings, action: str, target: str, **details: Any) -> AbstractContextManager[None]:
    """For commands that need no service: where none has ever run there is no log, and none is made."""
    path = settings.store_url.removeprefix("sqlite:///")
    if path != settings.store_url and not Path(path).exists():
        return nullcontext()
    return audited(settings, action, target, **details)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


@click.command()
@click.option("--since", type=Since(), help="Not before then: 10m, 2h, 1d, or a day or time as 2026-11-28.")
@click.option("--by", "actors", multiple=True, metavar="NAME", help="Only by this key, or user@host; may be repeated.")
@click.option("--what", "actions", multiple=True, help="Only this, such as key.create; may be repeated.")
@click.option("--on", "targets", multiple=True, help="Only on this key, model, job, ...; may be repeated.")
@limit_option(50)
@json_option
@click.pass_context
def audit(
    context: click.Context, since: float | None, actors: tuple[str, ...], actions: tuple[str, ...],
    targets: tuple[str, ...], limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Show what operators changed, newest first (needs an admin key)."""
    query = [*(("actor_ids", name) for name in actors), *(("event_types", name) for name in actions)]
    query += [("resource_ids", name) for name in targets]
    if since is not None:
        query.append(("effective_at[gte]", str(int(since))))
    found, has_more = client_of(context).listed("/v1/audit_logs", limit, query)
    if as_json:
        show_json(found)
    else:
        show_table(NAMES, [cells(entry) for entry in found])
        if not found:
            show_note("There is no entry.")
    note_more(limit, has_more)


def cells(entry: dict[str, Any]) -> tuple[Any, ...]:
    key, session = entry["actor"]["api_key"], entry["actor"]["session"]
    details = ", ".join(f"{name}={value}" for name, value in entry["details"].items())
    outcome = f"{entry['outcome']}: {entry['code']}" if entry["code"] else entry["outcome"]
    return (
        moment(entry["effective_at"]),
        key["name"] if key else session["user"]["id"],
        entry["ip_address"],
        entry["type"],
        entry["resource_id"],
        outcome,
        details,
    )
