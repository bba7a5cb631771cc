"""All that a key owns is exported and deleted, and nothing of another key."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from common.records.accounts import owned
from common.records.accounts.owned import delete_page, owned_rows, owned_tables
from common.records.database import Records
from common.records.schema import batches, metadata
from tests.common.records.rows import fill


def counts(records: Records) -> dict[str, int]:
    with records.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in owned_tables()
        }


def delete_all(records: Records, owner: str, kept: tuple[str, ...] = ()) -> list[str]:
    file_ids, num_deleted = [], 1
    while num_deleted:
        with records.begin() as connection:
            num_deleted, ids = delete_page(connection, owner, kept)
        file_ids += ids
    return file_ids


def test_every_other_table_is_somebody_s() -> None:
    assert {table.name for table in owned_tables()} == set(metadata.tables) - {"meta", "audit_log"}
    for table in owned_tables():
        assert "owner" in table.c or table.foreign_keys, table.name


def test_all_tables_are_emptied_of_one_owner_in_pages(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "PAGE", 2)
    with records.begin() as connection:
        fill(connection, "alice", 5)
        fill(connection, "bob", 2)
    assert delete_all(records, "alice") == [f"alice-{number}" for number in range(5)]
    assert set(counts(records).values()) == {2}


def test_the_ledger_may_stay(records: Records) -> None:
    with records.begin() as connection:
        fill(connection, "alice")
    delete_all(records, "alice", ("ledger",))
    assert {name for name, number in counts(records).items() if number} == {"ledger"}


def test_every_row_is_exported_once_and_no_secret(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "PAGE", 2)
    with records.begin() as connection:
        fill(connection, "alice", 5)
        fill(connection, "bob", 2)
    for table in owned_tables():
        rows = list(owned_rows(records, table, "alice"))
        assert len(rows) == 5 and "bob" not in str(rows), table.name
        assert not owned.SECRETS & set(rows[0]), table.name
    [job, *_] = owned_rows(records, metadata.tables["archived_jobs"], "alice")
    assert job["form"] == {"of": "alice"} == job["log"][0]


def ended(status: str, at: float | None) -> dict[str, Any]:
    """What a batch's row says of its end."""
    ends = dict.fromkeys(("completed", "failed", "expired", "cancelled"))
    return {"status": status, **ends} | ({} if at is None else {status: at})


def test_batches_that_ended_long_ago_are_deleted_with_their_lines(records: Records) -> None:
    with records.begin() as connection:
        fill(connection, "alice", 3)
        change: Callable[..., None] = lambda index, **values: connection.execute(  # noqa: E731
            batches.update().where(batches.c.id == f"alice-{index}").values(**values)
        )
        change(0, created=50, **ended("completed", 50))
        change(1, created=50, **ended("in_progress", None))
        change(2, created=50, **ended("completed", 150))
        assert owned.delete_ended_batches(connection, 100, 10) == 1
    assert counts(records)["batches"] == counts(records)["batch_lines"] == 2


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_a_batch_is_kept_from_its_end_however_long_it_ran(records: Records, status: str) -> None:
    with records.begin() as connection:
        fill(connection, "alice", 1)
        connection.execute(batches.update().values(created=50, **ended(status, 150)))
        assert owned.delete_ended_batches(connection, 100, 10) == 0
        assert owned.delete_ended_batches(connection, 200, 10) == 1
