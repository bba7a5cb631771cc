"""All that a key owns, whichever table it lies in: read for an export, deleted for good."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, func, or_, select, tuple_

from common.records.archive import exported
from common.records.database import Connection, Records
from common.records.files import OPEN
from common.records.schema import archived_jobs, batches, files, metadata

NOBODYS = frozenset({"meta", "audit_log"})  # what operators did to a key outlives it
SECRETS = frozenset({"secret", "old_secret"})
PAGE = 500


def owned_tables() -> list[Table]:
    """Those with an owner in each row, or with a parent that has one; parents first."""
    return [table for table in metadata.sorted_tables if table.name not in NOBODYS]


def is_owned(table: Table, owner: str) -> ColumnElement[bool]:
    if "owner" in table.c:
        return table.c.owner == owner
    parents = [
        foreign.parent.in_(select(foreign.column).where(is_owned(foreign.column.table, owner)))
        for foreign in table.foreign_keys
    ]
    return or_(*parents)


def owned_rows(records: Records, table: Table, owner: str) -> Iterator[dict[str, Any]]:
    """In pages, in the order of the primary key, as JSON can hold them. No secret is among them."""
    key = list(table.primary_key)
    place: tuple[Any, ...] | None = None
    while True:
        found = select(table).where(is_owned(table, owner)).order_by(*key).limit(PAGE)
        with records.read() as connection:
            rows = connection.execute(found if place is None else found.where(tuple_(*key) > place)).all()
        for row in rows:
            yield exported(row) if table is archived_jobs else plain(row._mapping)
        if len(rows) < PAGE:
            return
        place = tuple(rows[-1]._mapping[column.name] for column in key)


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = {str(name): value for name, value in row.items() if str(name) not in SECRETS}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in shown.items()}


def delete_page(connection: Connection, owner: str, kept: Collection[str] = ()) -> tuple[int, list[str]]:
    """Delete some rows of each table, children first. Returns how many, and the ids of the files among them."""
    found = select(files.c.id).where(files.c.owner == owner).order_by(files.c.id).limit(PAGE)
    ids = list(connection.execute(found).scalars())
    num_deleted = connection.execute(delete(files).where(files.c.id.in_(ids))).rowcount
    for table in reversed(owned_tables()):
        if table is files or table.name in kept:
            continue
        key = tuple_(*table.primary_key)
        page = select(*table.primary_key).where(is_owned(table, owner)).limit(PAGE)
        num_deleted += connection.execute(delete(table).where(key.in_(page))).rowcount
    return num_deleted, ids


def open_batches(connection: Connection, owner: str) -> list[str]:
    """The ids of the owner's batches that have not ended."""
    is_open = and_(batches.c.owner == owner, batches.c.status.in_(OPEN))
    return list(connection.execute(select(batches.c.id).where(is_open)).scalars())


def delete_ended_batches(connection: Connection, before: float, limit: int) -> int:
    """Delete batches that ended before this time, with their lines. Returns how many."""
    ended = func.coalesce(batches.c.completed, batches.c.failed, batches.c.expired, batches.c.cancelled)
    is_old = and_(ended < before, batches.c.status.not_in(OPEN))
    ids = select(batches.c.id).where(is_old).limit(limit)
    return connection.execute(delete(batches).where(batches.c.id.in_(ids))).rowcount
