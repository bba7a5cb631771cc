"""The records of batches, as the API makes, shows and cancels them; the dispatcher does the rest."""

import secrets
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, func, or_, select, update

from common.records.database import by_time, insert_new
from common.records.files import OPEN
from common.records.schema import batches

OUTCOMES = ("succeeded", "errored", "expired", "cancelled")  # of lines
CANCELLABLE = ("validating", "in_progress")

BatchRow = RowMapping  # by the names of the columns


def new_batch_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def add_batch(connection: Connection, row: Mapping[str, Any]) -> None:
    """Nothing happens if another batch of its owner was made with the same Idempotency-Key."""
    insert_new(connection, batches, [row])


def batch_of(connection: Connection, owner: str | None, dialect: str, batch_id: str) -> BatchRow | None:
    """None for another owner's and another dialect's. `owner`: None for any."""
    found = select(batches).where(batches.c.id == batch_id, batches.c.dialect == dialect)
    if owner is not None:
        found = found.where(batches.c.owner == owner)
    return connection.execute(found).mappings().first()


def expected_end(row: BatchRow) -> float | None:
    """Unix seconds, while the batch runs and that moment is ahead."""
    is_ahead = row["status"] in OPEN and row["eta"] is not None and row["eta"] > time.time()
    return row["eta"] if is_ahead else None


def batch_by_key(connection: Connection, owner: str, idempotency: str) -> BatchRow | None:
    """The batch that was made with this Idempotency-Key, given as its digest."""
    found = select(batches).where(batches.c.owner == owner, batches.c.idempotency == idempotency)
    return connection.execute(found).mappings().first()


def batches_page(
    connection: Connection, owner: str, dialect: str, *, limit: int, after: str = "", before: str = ""
) -> tuple[list[BatchRow], bool] | None:
    """At most `limit` batches, newest first, after or before one; and whether there are more on that side.

    None if the batch to go on from is not there.
    """
    found = select(batches).where(batches.c.owner == owner, batches.c.dialect == dialect)
    newest_first, behind = not before, None
    if cursor := after or before:
        place = batch_of(connection, owner, dialect, cursor)
        if place is None:
            return None
        behind = (place["created"], place["id"])
    found = by_time(found, batches, behind, is_descending=newest_first).limit(limit + 1)
    rows: list[BatchRow] = list(connection.execute(found).mappings())
    page = rows[:limit]
    return page if newest_first else page[::-1], len(rows) > limit


def num_open(connection: Connection, owner: str) -> int:
    """The batches of this owner that have not ended, in both dialects."""
    found = select(func.count()).where(batches.c.owner == owner, batches.c.status.in_(OPEN))
    return int(connection.execute(found).scalar_one())


def board_batches(connection: Connection, ended_after: float, limit: int) -> tuple[list[BatchRow], int]:
    """Every key's batches: those that have not ended first, the oldest of them first; then those that were made after
    `ended_after`, the newest first. At most `limit`; and how many have not ended."""
    is_open = batches.c.status.in_(OPEN)
    order = case((is_open, batches.c.created), else_=-batches.c.created)
    found = select(batches).where(or_(is_open, batches.c.created > ended_after))
    found = found.order_by(case((is_open, 0), else_=1), order, batches.c.id).limit(limit)
    total = connection.execute(select(func.count()).select_from(batches).where(is_open)).scalar_one()
    return list(connection.execute(found).mappings()), int(total)


def batch_counts(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Every key's batches by status, and their lines by outcome; lines of open batches without one are `waiting`."""
    statuses, lines = {}, dict.fromkeys((*OUTCOMES, "waiting"), 0)
    sums = [func.sum(batches.c[f"num_{name}"]) for name in ("total", *OUTCOMES)]
    for status, number, total, *done in connection.execute(
        select(batches.c.status, func.count(), *sums).group_by(batches.c.status)
    ):
        statuses[status] = number
        for outcome, count in zip(OUTCOMES, done, strict=True):
            lines[outcome] += int(count)
        lines["waiting"] += int(total) - sum(map(int, done)) if status in OPEN else 0
    return statuses, lines


def cancel_batch(connection: Connection, batch_id: str, now: float) -> bool:
    """False if its state does not allow it any more."""
    changed = (
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_(CANCELLABLE))
        .values(status="cancelling", cancelling=now)
    )
    return bool(connection.execute(changed).rowcount)


def delete_batch(connection: Connection, batch_id: str) -> bool:
    """With its lines. False if it has not ended."""
    gone = delete(batches).where(batches.c.id == batch_id, batches.c.status.not_in(OPEN))
    return bool(connection.execute(gone).rowcount)
