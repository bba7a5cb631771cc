"""The audit log: what operators change, each a row that is there before the change and is told its outcome after it.

Without the row nothing is changed: the store's errors go to the caller. A row that never hears of its outcome, because
the process died or the store went away, stays `begun`.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from common.errors import OmniError
from common.records.database import Records, StoreError
from common.records.schema import audit_log

logger = logging.getLogger("omni.audit")

KEPT_S = 400 * 86400  # or OMNI_STORE_TTL, if that is longer
CUT = ("actor", "address", "forwarded", "request_id", "target")  # to the length of their columns


@dataclass(frozen=True, slots=True)
class AuditedChange:
    """What somebody is about to do. `details` may hold no secret, no key and no text of a caller's."""

    actor: str
    action: str
    target: str
    details: Mapping[str, Any] = field(default_factory=dict)
    key_id: str | None = None
    address: str = ""
    forwarded: str = ""
    request_id: str = ""


Run = Callable[..., Any]


def here(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


@contextmanager
def recorded(records: Records, change: AuditedChange, run: Run = here) -> Iterator[None]:
    """The change happens inside. `run` calls what waits for the store: in a thread, where others would wait with it.

    Raises StoreError before the change if its row cannot be written.
    """
    number = run(begin_change, records, change)
    outcome, code = "failed", ""
    try:
        yield
        outcome = "succeeded"
    except OmniError as error:
        code = error.code
        raise
    except BaseException as error:
        code = type(error).__name__
        raise
    finally:
        fields = {**asdict(change), "outcome": outcome, "code": code}
        logger.info("%s %s %s: %s", change.actor, change.action, change.target, outcome, extra={"fields": fields})
        try:
            run(end_change, records, number, outcome, code)
        except StoreError as error:
            logger.warning("the audit log lacks an outcome (%s)", type(error).__name__)


def begin_change(records: Records, change: AuditedChange) -> int:
    """Returns the row's number."""
    row = asdict(change) | {"at": time.time(), "outcome": "begun"}
    row |= {name: row[name][: getattr(audit_log.c[name].type, "length", None)] for name in CUT}
    with records.begin() as connection:
        return int(connection.execute(insert(audit_log).values(row).returning(audit_log.c.number)).scalar_one())


def end_change(records: Records, number: int, outcome: str, code: str) -> None:
    values = {"outcome": outcome, "code": code[:64] or None, "ended": time.time()}
    with records.begin() as connection:
        connection.execute(update(audit_log).where(audit_log.c.number == number).values(values))


@dataclass(frozen=True, slots=True)
class WantedChanges:
    """A question to the log. Empty: all."""

    since: float | None = None
    until: float | None = None  # exclusive
    actions: Collection[str] = ()
    actors: Collection[str] = ()  # names or key ids
    targets: Collection[str] = ()
    before: int | None = None  # rows with a lower number


def changes(connection: Connection, wanted: WantedChanges, limit: int) -> Sequence[Row[Any]]:
    """Newest first; one more than `limit` when there are more."""
    table = audit_log.c
    query = select(audit_log).order_by(table.number.desc()).limit(limit + 1)
    if wanted.since is not None:
        query = query.where(table.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(table.at < wanted.until)
    if wanted.before is not None:
        query = query.where(table.number < wanted.before)
    if wanted.actions:
        query = query.where(table.action.in_(wanted.actions))
    if wanted.actors:
        query = query.where(table.actor.in_(wanted.actors) | table.key_id.in_(wanted.actors))
    if wanted.targets:
        query = query.where(table.target.in_(wanted.targets))
    return connection.execute(query).all()


def purge_changes(connection: Connection, before: float, limit: int) -> int:
    """Delete the oldest rows of before this time. Returns how many, at most `limit`."""
    old = select(audit_log.c.number).where(audit_log.c.at < before).limit(limit)
    return connection.execute(delete(audit_log).where(audit_log.c.number.in_(old))).rowcount
