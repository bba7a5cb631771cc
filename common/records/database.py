"""Records: the SQL database, SQLite or PostgreSQL, migrated before its first use.

with records.begin() as connection: ...     one transaction that may write
with records.read() as connection: ...      one that only reads
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import gt, lt
from pathlib import Path
from typing import Any

from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, NullPool, Select, Table, and_, create_engine, event, make_url, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError

from common.records.migrate import migrate

logger = logging.getLogger("omni.records")

BUSY_MS = 10_000  # SQLite: how long a transaction waits for another process's
StoreError = SQLAlchemyError  # every call of the store may raise it, for houses that do not know SQLAlchemy
NotStorable = DataError  # PostgreSQL has no place for a value, such as a text with the character NUL
WRITES = "omni_writes"  # an execution option of connections whose transaction may write


class Records:
    """Opened by its first transaction. Any thread may use it; a transaction belongs to one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at its end, rolled back by an exception. Raises sqlalchemy.exc.SQLAlchemyError."""
        with self.engine().connect() as connection:
            connection = connection.execution_options(**{WRITES: True})
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine().connect() as connection:
            yield connection

    def engine(self) -> Engine:
        """Raises SchemaTooNew, or sqlalchemy.exc.SQLAlchemyError when the database cannot be reached."""
        with self._lock:
            if self._engine is None:
                engine = engine_of(self.url)
                migrate(engine)
                self._engine = engine
            return self._engine


def engine_of(url: str) -> Engine:
    """A connection per transaction: threads of gevent's pool and of the dispatcher then share no lock of a pool."""
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)  # errors are logged; rows hold secrets
    if engine.dialect.name == "sqlite":
        path = Path(make_url(url).database or "")
        path.parent.mkdir(
            0o700, parents=True, exist_ok=True
        )  # it may be the data folder, which must be closed to others
        path.touch(mode=0o600)  # it holds callers' texts; its log beside it gets the same rights
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def is_away(error: Exception) -> bool:
    """True for what a wait can cure: no connection, a lock that is held for long, a full disk."""
    return isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # sqlite3 begins no transactions by itself: _begin_sqlite does
    for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:  # SQLite does not wait by itself while two processes do this to a new file
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that may write takes the lock when it begins; later it could not wait for it."""
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def by_time(
    query: Select[Any], table: Table, after: tuple[float, str] | None = None, *, is_descending: bool = True
) -> Select[Any]:
    """Rows in the order of `created`, then of `id`: those behind the row of these two."""
    created, ids = table.c.created, table.c.id
    if after is not None:
        comes_behind = lt if is_descending else gt
        beside = and_(created == after[0], comes_behind(ids, after[1]))
        query = query.where(or_(comes_behind(created, after[0]), beside))
    return query.order_by(*(column.desc() if is_descending else column for column in (created, ids)))


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), list(rows))


def insert_or_replace(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row, or replace all other columns of the one with this primary key."""
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table).values(**row)
    changes = {name: statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes))


def insert_or_add(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row of counts, or add them to the row with this primary key."""
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table).values(**row)
    sums = {name: table.c[name] + statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=sums))


def _insert(connection: Connection, table: Table) -> Any:
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
