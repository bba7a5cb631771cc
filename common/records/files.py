"""The records of files. Their bytes lie elsewhere (common/files): a file is there when its record is."""

import secrets
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select

from common.records.database import by_time, insert_new
from common.records.schema import batches, files

BATCH = "batch"
BATCH_OUTPUT = "batch_output"
USER_DATA = "user_data"
MESSAGE_BATCH = "message_batch"  # the requests of one of Anthropic's batches, and its results
MESSAGE_BATCH_OUTPUT = "message_batch_output"
HIDDEN = (MESSAGE_BATCH, MESSAGE_BATCH_OUTPUT)  # from /v1/files: they belong to their batch
OPEN = ("validating", "in_progress", "finalizing", "cancelling")  # states of a batch that has not ended


@dataclass(frozen=True, slots=True)
class FileRecord:
    """`created` and `expires` are unix seconds."""

    id: str
    owner: str
    created: float
    expires: float | None
    num_bytes: int
    filename: str
    purpose: str


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def add_file(connection: Connection, record: FileRecord) -> None:
    """A record that is there already stays as it is."""
    insert_new(connection, files, [asdict(record)])


def file_of(connection: Connection, owner: str, file_id: str, now: float, *, locked: bool = False) -> FileRecord | None:
    """`locked`: nobody deletes it before this transaction ends. None for another owner's, and for an expired one."""
    found = select(files).where(files.c.id == file_id, files.c.owner == owner, _is_kept(now))
    row = connection.execute(found.with_for_update() if locked else found).mappings().first()
    return FileRecord(**row) if row is not None else None


def files_page(
    connection: Connection,
    owner: str,
    now: float,
    *,
    limit: int,
    after: str = "",
    purpose: str = "",
    newest_first: bool = True,
) -> tuple[list[FileRecord], bool] | None:
    """At most `limit` files after the file `after`, and whether there are more. None if there is no file `after`."""
    found = select(files).where(files.c.owner == owner, files.c.purpose.not_in(HIDDEN), _is_kept(now))
    if purpose:
        found = found.where(files.c.purpose == purpose)
    behind = None
    if after:
        place = connection.execute(select(files).where(files.c.id == after, files.c.owner == owner)).mappings().first()
        if place is None:
            return None
        behind = (place["created"], place["id"])
    found = by_time(found, files, behind, is_descending=newest_first).limit(limit + 1)
    rows = [FileRecord(**row) for row in connection.execute(found).mappings()]
    return rows[:limit], len(rows) > limit


def bytes_kept(connection: Connection, owner: str) -> int:
    """The size of all files of this owner."""
    return int(connection.execute(select(func.sum(files.c.num_bytes)).where(files.c.owner == owner)).scalar() or 0)


def is_read_by_a_batch(connection: Connection, file_id: str) -> str:
    """The id of a batch that has not ended and reads this file; "" if there is none."""
    found = select(batches.c.id).where(batches.c.input_file_id == file_id, batches.c.status.in_(OPEN))
    return str(connection.execute(found.limit(1)).scalar() or "")


def delete_file(connection: Connection, file_id: str) -> None:
    connection.execute(delete(files).where(files.c.id == file_id))


def delete_expired(connection: Connection, now: float, limit: int) -> list[str]:
    """Deletes the records of at most `limit` expired files that no open batch reads; their ids."""
    reads = select(batches.c.input_file_id).where(batches.c.status.in_(OPEN))
    found = select(files.c.id).where(files.c.expires <= now, files.c.id.not_in(reads)).limit(limit)
    ids = [str(file_id) for file_id in connection.execute(found.with_for_update()).scalars()]
    connection.execute(delete(files).where(files.c.id.in_(ids)))
    return ids


def known_files(connection: Connection, ids: list[str]) -> set[str]:
    """Which of these have a record."""
    return set(connection.execute(select(files.c.id).where(files.c.id.in_(ids))).scalars())


def _is_kept(now: float) -> ColumnElement[bool]:
    return or_(files.c.expires.is_(None), files.c.expires > now)
