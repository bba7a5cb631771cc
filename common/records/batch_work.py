"""The dispatcher's changes of batches: their lines' results, counts, files and ends.

Each function is a part of a transaction that has checked the dispatcher's fence.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, select, update

from common.records.database import insert_new
from common.records.events import record_event
from common.records.files import BATCH_OUTPUT, MESSAGE_BATCH_OUTPUT, OPEN, FileRecord, add_file
from common.records.schema import batch_lines, batches

EndStatus = Literal["completed", "expired", "cancelled"]
PAGE = 500  # lines


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that has not ended, as its row was read."""

    id: str
    owner: str
    dialect: str
    endpoint: str
    input_file_id: str
    status: str
    expires: float
    output_ttl: int | None
    num_total: int
    in_progress: float | None  # when it began; None: its file was not checked

    @property
    def is_anthropics(self) -> bool:
        return self.dialect == "anthropic"


@dataclass(frozen=True, slots=True)
class LineResult:
    """The API's last word on one line."""

    number: int
    custom_id: str
    status_code: int
    request_id: str
    body: bytes
    job_id: str = ""

    @property
    def outcome(self) -> str:
        return "succeeded" if self.status_code == 200 else "errored"


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of results, ready in the storage."""

    id: str
    filename: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What is added to a batch's row with its lines."""

    num_succeeded: int = 0
    num_errored: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


FIELDS = tuple(batches.c[name] for name in OpenBatch.__dataclass_fields__)
COUNTS: Mapping[str, Any] = MappingProxyType({name: batches.c[name] for name in BatchCounts.__dataclass_fields__})


def open_batches(connection: Connection) -> list[OpenBatch]:
    """The oldest first."""
    rows = connection.execute(select(*FIELDS).where(batches.c.status.in_(OPEN)).order_by(batches.c.created))
    return [OpenBatch(*row) for row in rows]


def begin(connection: Connection, batch_id: str, num_total: int, model: str) -> None:
    """The file was checked: lines may be sent."""
    changes = {"status": "in_progress", "in_progress": time.time(), "num_total": num_total, "model": model}
    _change(connection, batch_id, ("validating",), changes)


def fail(connection: Connection, batch: OpenBatch, faults: Sequence[Mapping[str, Any]]) -> None:
    changes = {"status": "failed", "failed": time.time(), "errors": list(faults)}
    if _change(connection, batch.id, OPEN, changes):
        connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch.id))
        tell(connection, batch, "failed")


def begin_finalizing(connection: Connection, batch_id: str) -> None:
    """A batch that is being cancelled stays so."""
    _change(connection, batch_id, ("in_progress",), {"status": "finalizing", "finalizing": time.time(), "eta": None})


def recorded_numbers(connection: Connection, batch_id: str, among: Iterable[int] | None = None) -> set[int]:
    query = select(batch_lines.c.number).where(batch_lines.c.batch_id == batch_id)
    if among is not None:
        query = query.where(batch_lines.c.number.in_(list(among)))
    return set(connection.execute(query).scalars())


def still_open(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Of these batches those that take results: not ended, and not deleted with their owner."""
    query = select(batches.c.id).where(batches.c.id.in_(list(ids)), batches.c.status.in_(OPEN))
    return set(connection.execute(query).scalars())


def record(connection: Connection, batch_id: str, results: Sequence[LineResult], counts: BatchCounts) -> None:
    """The results of lines without one, and the batch's counts."""
    rows = [
        {
            "batch_id": batch_id,
            "number": result.number,
            "custom_id": result.custom_id,
            "outcome": result.outcome,
            "status_code": result.status_code,
            "request_id": result.request_id,
            "body": result.body,
        }
        for result in results
    ]
    insert_new(connection, batch_lines, rows)
    sums = {name: column + getattr(counts, name) for name, column in COUNTS.items()}
    connection.execute(update(batches).where(batches.c.id == batch_id).values(sums))


def note_pace(connection: Connection, batch_id: str, lines_per_s: float, eta: float | None, waits_for: str) -> None:
    changes = {"lines_per_s": lines_per_s, "eta": eta, "waiting_for": waits_for or None}
    connection.execute(update(batches).where(batches.c.id == batch_id).values(changes))


def lines_after(connection: Connection, batch_id: str, number: int) -> Sequence[Row[Any]]:
    """A page of recorded lines after this one, in order."""
    found = select(batch_lines).where(batch_lines.c.batch_id == batch_id, batch_lines.c.number > number)
    return connection.execute(found.order_by(batch_lines.c.number).limit(PAGE)).all()


def end(
    connection: Connection, batch: OpenBatch, status: EndStatus, made: Mapping[str, ResultFile], num_left: int
) -> bool:
    """All that follows from the end of a batch: its status, files, event, and the removal of its lines.

    `made`: the columns of the batch that name a file -> the file. False when the batch has left its state meanwhile.
    """
    now = time.time()
    changes: dict[str, Any] = {"status": status, status: now, "eta": None}
    if status != "completed":
        changes[f"num_{status}"] = num_left
    before = ("cancelling",) if status == "cancelled" else ("finalizing",)
    if not _change(connection, batch.id, before, changes | {name: file.id for name, file in made.items()}):
        return False
    expires = None if batch.output_ttl is None else now + batch.output_ttl
    purpose = MESSAGE_BATCH_OUTPUT if batch.is_anthropics else BATCH_OUTPUT
    for file in made.values():
        add_file(connection, FileRecord(file.id, batch.owner, now, expires, file.num_bytes, file.filename, purpose))
    connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch.id))
    tell(connection, batch, status)
    return True


def tell(connection: Connection, batch: OpenBatch, status: str) -> None:
    kind = f"batch.{status}"
    record_event(connection, batch.owner, kind, {"id": batch.id}, f"{batch.id}:{kind}")


def num_recorded(connection: Connection, batch_id: str) -> int:
    query = select(func.count()).select_from(batch_lines).where(batch_lines.c.batch_id == batch_id)
    return int(connection.execute(query).scalar_one())


def _change(connection: Connection, batch_id: str, before: Sequence[str], changes: Mapping[str, Any]) -> bool:
    """False when the batch is in another state by now."""
    where = (batches.c.id == batch_id, batches.c.status.in_(before))
    return connection.execute(update(batches).where(*where).values(**changes)).rowcount == 1
