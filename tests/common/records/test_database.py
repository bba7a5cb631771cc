"""The store on SQLite and PostgreSQL: migrations, transactions that die, locks, and versions that do not fit."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from common.records import database
from common.records.database import Records, StoreError, insert_new, insert_or_add, insert_or_replace
from common.records.migrate import SCHEMA, SchemaTooNew
from common.records.schema import ledger, meta, metadata

ROOT = Path(__file__).resolve().parents[3]
ROW = {"owner": "o", "model": "m", "day": "2026-01-01", "tier": "default", "requests": 1, "failed": 0, "cancelled": 0}
ROW |= {"prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": 3, "gpu_us": 4}


def values(records: Records) -> dict[str, str]:
    with records.read() as connection:
        rows = connection.execute(select(meta.c.name, meta.c.value).where(meta.c.name != SCHEMA))
        return dict(tuple(row) for row in rows)


def child(code: str, url: str) -> "subprocess.Popen[str]":
    """A process that has `records`, and says `ready` before it goes on after a line of input."""
    head = "import sys, os, signal\nfrom common.records.database import *\nfrom common.records.schema import *\n"
    ready = "def ready():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    program = f"{head}{ready}records = Records(sys.argv[1])\n{code}"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program, url], cwd=ROOT, text=True, stdin=pipe, stdout=pipe)


def wait_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None and process.stdout.readline() == "ready\n"


def test_migrations_make_exactly_the_tables_of_the_schema(records: Records) -> None:
    with records.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_comparison_finds_a_column_that_the_migrations_lack(records: Records) -> None:
    with records.begin() as connection:
        connection.execute(text("ALTER TABLE ledger DROP COLUMN gpu_us"))
    with records.read() as connection:
        [(kind, _, table, column)] = compare_metadata(MigrationContext.configure(connection), metadata)
    assert (kind, table, column.name) == ("add_column", "ledger", "gpu_us")


def test_several_processes_open_a_new_database_at_once(store_url: str) -> None:
    code = "ready()\nwith records.begin() as c: insert_new(c, meta, [{'name': str(os.getpid()), 'value': ''}])"
    processes = [child(code, store_url) for _ in range(4)]
    for process in processes:
        wait_ready(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(30) for process in processes] == [0] * 4
    assert set(values(Records(store_url))) == {str(process.pid) for process in processes}


def test_a_process_that_is_killed_in_a_transaction_leaves_nothing_of_it(store_url: str) -> None:
    records = Records(store_url)
    with records.begin() as connection:
        insert_new(connection, meta, [{"name": "a", "value": "before"}])
    code = """
with records.begin() as c:
    insert_or_replace(c, meta, {'name': 'a', 'value': 'half'})
    insert_new(c, meta, [{'name': 'b', 'value': 'half'}])
    print('ready', flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = child(code, store_url)
    wait_ready(process)
    assert process.wait(30) == -signal.SIGKILL
    assert values(records) == {"a": "before"}
    with records.begin() as connection:  # and nothing is locked
        insert_or_replace(connection, meta, {"name": "a", "value": "after"})
    assert values(records) == {"a": "after"}


def test_an_exception_rolls_the_transaction_back(records: Records) -> None:
    with pytest.raises(ZeroDivisionError), records.begin() as connection:
        insert_new(connection, meta, [{"name": "a", "value": ""}])
        raise ZeroDivisionError
    assert values(records) == {}


def test_a_transaction_waits_for_the_one_that_holds_the_lock(records: Records) -> None:
    records.engine()
    order: list[str] = []
    has_begun = threading.Event()

    def other() -> None:
        has_begun.set()
        with records.begin() as connection:
            insert_or_add(connection, ledger, ROW)
            order.append("second")

    with records.begin() as connection:
        insert_or_add(connection, ledger, ROW)
        thread = threading.Thread(target=other)
        thread.start()
        assert has_begun.wait(5)
        thread.join(0.3)
        assert thread.is_alive(), "it waits"
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    with records.read() as connection:
        assert connection.execute(select(ledger.c.requests)).scalar_one() == 2


def test_a_reader_does_not_wait_for_a_writer_and_sees_what_was_committed(records: Records) -> None:
    with records.begin() as connection:
        insert_new(connection, meta, [{"name": "a", "value": "1"}])
    with records.begin() as connection:
        insert_or_replace(connection, meta, {"name": "a", "value": "2"})
        assert values(records) == {"a": "1"}
    assert values(records) == {"a": "2"}


def test_many_threads_add_to_one_row_and_nothing_is_lost(records: Records) -> None:
    records.engine()
    faults: list[BaseException] = []

    def add() -> None:
        try:
            for _ in range(10):
                with records.begin() as connection:
                    insert_or_add(connection, ledger, ROW)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with records.read() as connection:
        assert connection.execute(select(ledger.c.requests, ledger.c.gpu_us)).one() == (80, 320)


def test_a_database_of_a_later_version_is_refused_in_one_sentence(store_url: str) -> None:
    with Records(store_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match="made by a later version of this server .schema 9999.: run that version"):
        Records(store_url).engine()


@pytest.mark.parametrize(("noted", "is_used"), [("9999 0001", True), ("9999 9998", False), ("9998 0001", False)])
def test_a_database_of_a_later_version_is_used_where_its_migration_allows_that(
    store_url: str, noted: str, is_used: bool
) -> None:
    with Records(store_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE meta SET value = :noted WHERE name = 'schema'"), {"noted": noted})
    if not is_used:
        with pytest.raises(SchemaTooNew):
            Records(store_url).engine()
        return
    assert values(Records(store_url)) == {}
    with Records(store_url).read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_sqlite_s_folder_is_made_and_its_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path}/new/omni.db")
    assert values(records) == {}
    assert (tmp_path / "new" / "omni.db").stat().st_mode & 0o077 == 0


def test_a_new_sqlite_file_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "omni.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(values, Records(f"sqlite:///{tmp_path}/omni.db"))
        with pytest.raises(TimeoutError):
            found.result(0.3)
        other.execute("ROLLBACK")
        assert found.result(10) == {}
    other.close()


def test_sqlite_writes_ahead_and_syncs_each_commit(tmp_path: Path) -> None:
    with Records(f"sqlite:///{tmp_path}/omni.db").read() as connection:
        pragmas: dict[str, Any] = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": database.BUSY_MS, "foreign_keys": 1}


def test_no_connection_stays_open_after_its_transaction(tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path}/omni.db")
    with ExitStack() as stack:
        stack.enter_context(records.read())
        assert open_files(tmp_path)
    assert not open_files(tmp_path)


def open_files(folder: Path) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return [name for name in found if name.startswith(str(folder))]


def test_an_error_names_no_value_because_rows_hold_secrets_and_errors_are_logged(records: Records) -> None:
    row = {"name": "fence", "value": "whsec_secret"}
    with pytest.raises(StoreError) as failed, records.begin() as connection:
        connection.execute(insert(meta), row)
        connection.execute(insert(meta), row)
    assert "INSERT INTO meta" in str(failed.value) and "whsec_secret" not in str(failed.value)


def test_a_new_folder_of_the_store_is_closed_to_other_users(tmp_path: Path) -> None:
    path = tmp_path / "data" / "omni.db"
    with Records(f"sqlite:///{path}").begin():
        assert path.parent.stat().st_mode & 0o777 == 0o700
