"""Records of files and batches on SQLite and PostgreSQL: pages, shares, and two transactions that meet."""

import threading

import pytest

from common.records.batches import add_batch, batch_by_key, batch_of, batches_page, cancel_batch, delete_batch
from common.records.files import (
    FileRecord,
    add_file,
    bytes_kept,
    delete_file,
    file_of,
    files_page,
    is_read_by_a_batch,
    known_files,
)

BATCH = {"owner": "me", "dialect": "openai", "endpoint": "/v1/x", "input_file_id": "file-a", "completion_window": "24h"}


def file(name, created=1.0, owner="me", purpose="batch", num_bytes=10, expires=None):
    return FileRecord(name, owner, created, expires, num_bytes, "a", purpose)


def batch(name, created=1.0, status="validating", **values):
    return BATCH | {"id": name, "created": created, "expires": created + 1, "status": status} | values


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_show_each_file_once_also_those_of_the_same_moment(records, newest_first):
    ids = [f"file-{number * 7 % 20:02d}" for number in range(20)]
    with records.begin() as connection:
        for number, name in enumerate(ids):
            add_file(connection, file(name, created=float(number // 5)))
        add_file(connection, file("file-other", owner="you"))
        add_file(connection, file("file-hidden", purpose="message_batch"))
    found, after, has_more = [], "", True
    while has_more:
        with records.read() as connection:
            page, has_more = files_page(connection, "me", 0.0, limit=3, after=after, newest_first=newest_first)
        found += [(record.created, record.id) for record in page]
        after = page[-1].id
    assert found == sorted(found, reverse=newest_first) and sorted(name for _, name in found) == sorted(ids)
    with records.read() as connection:
        assert files_page(connection, "me", 0.0, limit=3, after="file-other") is None
        assert known_files(connection, ["file-00", "file-other", "no"]) == {"file-00", "file-other"}


def test_a_file_written_again_keeps_its_record_and_its_size_counts_once(records):
    with records.begin() as connection:
        add_file(connection, file("file-a"))
        add_file(connection, file("file-a", num_bytes=99))
        add_file(connection, file("file-b", num_bytes=3 * 2**31))
        assert bytes_kept(connection, "me") == 10 + 3 * 2**31 and bytes_kept(connection, "you") == 0
        delete_file(connection, "file-b")
        assert bytes_kept(connection, "me") == 10


def test_the_same_idempotency_key_makes_one_batch_and_other_owners_have_their_own(records):
    with records.begin() as connection:
        add_batch(connection, batch("b-1", idempotency="k"))
        add_batch(connection, batch("b-2", idempotency="k"))
        add_batch(connection, batch("b-3", idempotency="k", owner="you"))
        add_batch(connection, batch("b-4"))
        add_batch(connection, batch("b-5"))
        assert batch_by_key(connection, "me", "k")["id"] == "b-1"
        assert [name for name in ("b-1", "b-2", "b-4", "b-5") if batch_of(connection, "me", "openai", name)] == [
            "b-1", "b-4", "b-5",
        ]  # fmt: skip


def test_pages_of_batches_in_both_directions(records):
    with records.begin() as connection:
        for number in range(6):
            add_batch(connection, batch(f"b-{number}", created=float(number // 2)))
        add_batch(connection, batch("m", dialect="anthropic"))

        def page(**cursor):
            rows, has_more = batches_page(connection, "me", "openai", limit=2, **cursor)
            return [row["id"] for row in rows], has_more

        assert page() == (["b-5", "b-4"], True)
        assert page(after="b-3") == (["b-2", "b-1"], True)
        assert page(after="b-2") == (["b-1", "b-0"], False)
        assert page(before="b-2") == (["b-4", "b-3"], True)
        assert page(before="b-3") == (["b-5", "b-4"], False)
        assert batches_page(connection, "me", "openai", limit=2, after="m") is None


def test_only_an_open_batch_is_cancelled_and_only_an_ended_one_deleted(records):
    states = ["validating", "in_progress", "finalizing", "cancelling", "cancelled", "completed", "failed", "expired"]
    with records.begin() as connection:
        for status in states:
            add_batch(connection, batch(status, status=status))
        assert [status for status in states if delete_batch(connection, status)] == states[4:]
        assert [status for status in states if cancel_batch(connection, status, 5.0)] == states[:2]
        row = batch_of(connection, "me", "openai", "in_progress")
    assert (row["status"], row["cancelling"]) == ("cancelling", 5.0)


def test_a_file_is_not_deleted_while_a_batch_of_it_is_being_made(records):
    """The two transactions meet: the one that deletes waits, and then finds the batch."""
    with records.begin() as connection:
        add_file(connection, file("file-a"))
    found = []

    def delete():
        with records.begin() as connection:
            file_of(connection, "me", "file-a", 0.0, locked=True)
            found.append(is_read_by_a_batch(connection, "file-a"))

    with records.begin() as connection:
        assert file_of(connection, "me", "file-a", 0.0, locked=True)
        other = threading.Thread(target=delete)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        add_batch(connection, batch("b-1"))
    other.join()
    assert found == ["b-1"]
