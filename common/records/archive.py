"""Archived answers in `archived_jobs`: an ended job's metadata and log, from which any process builds the answer again.

Every function takes the connection of a transaction.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from common.records.database import by_time, insert_new, insert_or_replace
from common.records.schema import archived_jobs, conversation_entries

PAGE_ROWS = 200
TOMBSTONE_S = 7 * 24 * 3600  # longer than an ended job may wait in Redis to be archived
EXPORTED = (
    *("id", "kind", "model", "state", "code", "created", "ended", "expires", "num_prompt", "num_tokens", "max_tokens"),
    "metadata",
)
DELETED = "deleted"  # the state of a tombstone

ArchivedRow = Row[Any]  # of archived_jobs
Matches = Callable[[Mapping[str, str]], bool]


def packed(data: bytes) -> bytes:
    return zlib.compress(data)


def unpacked(data: bytes) -> bytes:
    return zlib.decompress(data)


def held(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Those that are part of a conversation. The rows stay locked until the transaction ends."""
    column = conversation_entries.c.response_id
    found = connection.execute(select(column).where(column.in_(job_ids)).with_for_update())
    return {job_id for (job_id,) in found}


def add_archived(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row that is there stays as it is: its metadata may have changed, or it may be a tombstone."""
    insert_new(connection, archived_jobs, rows)


def archived_job(connection: Connection, owner: str, job_id: str, *, with_hidden: bool = False) -> ArchivedRow | None:
    """The whole row; None when it is another owner's. `with_hidden`: also one that only a conversation still shows."""
    found = connection.execute(
        select(archived_jobs).where(
            archived_jobs.c.id == job_id, archived_jobs.c.owner == owner, archived_jobs.c.state != DELETED
        )
    ).first()
    return None if found is None or (found.hidden and not with_hidden) else found


def archived_page(
    connection: Connection,
    owner: str,
    kind: str,
    *,
    after: ArchivedRow | None,
    limit: int,
    is_descending: bool,
    model: str | None,
    matches: Matches,
) -> list[ArchivedRow]:
    """Up to `limit` + 1 finished answers in the order of their creation, those whose metadata matches."""
    found: list[str] = []
    place = (after.created, after.id) if after is not None else None
    while len(found) <= limit:
        rows = connection.execute(_in_order(owner, kind, place, is_descending, model).limit(PAGE_ROWS)).all()
        found += [row.id for row in rows if matches(row.metadata or {})]
        if len(rows) < PAGE_ROWS:
            break
        place = (rows[-1].created, rows[-1].id)
    wanted = found[: limit + 1]
    whole = {row.id: row for row in connection.execute(select(archived_jobs).where(archived_jobs.c.id.in_(wanted)))}
    return [whole[job_id] for job_id in wanted]


def _in_order(owner: str, kind: str, place: tuple[float, str] | None, is_descending: bool, model: str | None) -> Any:
    jobs = archived_jobs.c
    conditions = [jobs.owner == owner, jobs.kind == kind, jobs.state == "finished", jobs.hidden.is_(False)]
    if model is not None:
        conditions.append(jobs.model == model)
    found = select(jobs.id, jobs.created, jobs.metadata).where(*conditions)
    return by_time(found, archived_jobs, place, is_descending=is_descending)


def set_metadata(connection: Connection, owner: str, job_id: str, metadata: Mapping[str, str]) -> bool:
    """False when there is no such answer."""
    changed = connection.execute(
        update(archived_jobs)
        .where(archived_jobs.c.id == job_id, archived_jobs.c.owner == owner, archived_jobs.c.hidden.is_(False))
        .values(metadata=dict(metadata))
    )
    return changed.rowcount > 0


def remove_archived(connection: Connection, owner: str, job_id: str, kind: str, now: float) -> None:
    """Nothing of the answer stays but a tombstone, which keeps a job in Redis from being archived later.

    An answer that a conversation holds is hidden instead: its items stay there, as at OpenAI.
    """
    if held(connection, [job_id]):
        connection.execute(
            update(archived_jobs)
            .where(archived_jobs.c.id == job_id, archived_jobs.c.owner == owner)
            .values(hidden=True)
        )
        return
    insert_or_replace(connection, archived_jobs, _tombstone(owner, job_id, kind, now))


def _tombstone(owner: str, job_id: str, kind: str, now: float) -> dict[str, Any]:
    numbers = {"created": now, "ended": now, "expires": now + TOMBSTONE_S, "num_prompt": 0, "num_tokens": 0}
    texts = {"id": job_id, "owner": owner, "queue": "", "model": "", "kind": kind, "state": DELETED, "code": ""}
    return texts | numbers | {
        "max_tokens": 0, "form": b"", "log": b"", "metadata": None, "hidden": True, "derived": None,
    }  # fmt: skip


def delete_expired(connection: Connection, now: float, limit: int) -> int:
    """Remove up to `limit` answers that have expired; returns how many. Conversations and their responses do not."""
    expired = select(archived_jobs.c.id).where(archived_jobs.c.expires <= now).limit(limit)
    return connection.execute(delete(archived_jobs).where(archived_jobs.c.id.in_(expired))).rowcount


def exported(row: ArchivedRow) -> dict[str, Any]:
    """Everything that a row holds, as JSON."""
    form, log = json.loads(unpacked(row.form)), unpacked(row.log).splitlines()
    plain = {name: getattr(row, name) for name in EXPORTED}
    return plain | {"form": form, "log": [json.loads(line) for line in log]}
