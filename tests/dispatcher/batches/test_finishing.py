"""Results and files in the store: each once, whatever fails between two steps."""

import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis
from sqlalchemy import insert, select, update

from common.files.storage import FileStorage, PendingFile
from common.records.batch_work import LineResult, OpenBatch, open_batches
from common.records.database import Records
from common.records.schema import batch_lines, batches, files
from common.redis import keys
from dispatcher.batches.feeds import Feed
from dispatcher.batches.finishing import Finisher
from dispatcher.batches.recorder import Recorder
from dispatcher.lease import Lease, LeaseLost

OWNER = "0123456789abcdef0123456789abcdef"
CHAT = "/v1/chat/completions"
BODY = orjson.dumps({"usage": {"prompt_tokens": 5, "completion_tokens": 2}})


class Desk:
    """A store with one batch of three lines that is in progress, and what works on it."""

    def __init__(self, folder: Path, redis: "Redis", records: Records) -> None:
        self.folder = folder / "files"
        self.records = records
        self.storage = FileStorage(f"file://{self.folder}")
        self.lease = Lease(redis, self.records)
        assert self.lease.take(threading.Event())
        self.finisher = Finisher(self.records, self.lease, self.storage)
        with self.storage.create("file-in") as file:
            for name in "abc":
                line = {"custom_id": name, "method": "POST", "url": CHAT, "body": {"model": "tiny"}}
                file.write(orjson.dumps(line) + b"\n")
        row = {"id": "batch_1", "owner": OWNER, "dialect": "openai", "endpoint": CHAT, "input_file_id": "file-in"}
        row |= {"completion_window": "24h", "created": 1.0, "expires": time.time() + 60, "num_total": 3}
        with self.records.begin() as connection:
            connection.execute(insert(batches).values(row | {"status": "in_progress", "in_progress": 2.0}))

    def batch(self) -> OpenBatch:
        with self.records.read() as connection:
            [found] = open_batches(connection)
        return found

    def row(self) -> Any:
        with self.records.read() as connection:
            return connection.execute(select(batches)).one()

    def record(self, *numbers: int) -> None:
        results = [LineResult(number, "abc"[number - 1], 200, "req", BODY) for number in numbers]
        recorder = Recorder(self.records, self.lease, lambda *_: None)
        recorder._commit({Feed(self.batch(), iter([]), 0): results})

    def made(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"file-in"}


@pytest.fixture
def desk(tmp_path: Path, redis: "Redis", records: Records) -> Desk:
    return Desk(tmp_path, redis, records)


def test_a_result_whose_commit_was_not_answered_counts_once(desk) -> None:
    desk.record(1, 2)
    desk.record(1, 2, 3)
    row = desk.row()
    assert (row.num_succeeded, row.prompt_tokens, row.completion_tokens) == (3, 15, 6)


def test_results_of_a_batch_that_was_deleted_are_left_out(desk) -> None:
    with desk.records.begin() as connection:
        connection.execute(update(batches).values(status="cancelled"))
    feed = Feed(OpenBatch("batch_1", OWNER, "openai", CHAT, "f", "in_progress", 0, None, 3, 0.0), iter([]), 0)
    recorder = Recorder(desk.records, desk.lease, lambda *_: None)
    recorder._commit({feed: [LineResult(1, "a", 200, "req", BODY)]})
    assert desk.row().num_succeeded == 0


def test_an_earlier_holder_of_the_lease_records_and_ends_nothing(desk, redis) -> None:
    redis.delete(keys.DISPATCHER)
    assert Lease(redis, desk.records).take(threading.Event())
    with pytest.raises(LeaseLost):
        desk.record(1)
    with pytest.raises(LeaseLost):
        desk.finisher.finish(desk.batch())
    assert desk.row().status == "in_progress" and not desk.made()


def test_an_earlier_holder_that_was_writing_replaces_no_file(desk, redis, monkeypatch) -> None:
    desk.record(1, 2, 3)
    write = PendingFile.write

    def lose_the_lease(file: PendingFile, piece: bytes) -> None:
        redis.delete(keys.DISPATCHER)
        assert Lease(redis, desk.records).take(threading.Event())
        write(file, piece)

    monkeypatch.setattr(PendingFile, "write", lose_the_lease)
    with pytest.raises(LeaseLost):
        desk.finisher.finish(desk.batch())
    assert desk.row().status == "finalizing" and not desk.made()


def test_an_earlier_holder_that_stood_still_leaves_the_files_of_the_one_that_ended_the_batch(
    desk, redis, monkeypatch
) -> None:
    desk.record(1, 2, 3)
    write = PendingFile.write

    def stand_still(file: PendingFile, piece: bytes) -> None:
        write(file, piece)
        monkeypatch.setattr(PendingFile, "write", write)
        redis.delete(keys.DISPATCHER)
        successor = Lease(redis, desk.records)
        assert successor.take(threading.Event())
        Finisher(desk.records, successor, desk.storage).finish(desk.batch())

    monkeypatch.setattr(PendingFile, "write", stand_still)
    with pytest.raises(LeaseLost):
        desk.finisher.finish(desk.batch())
    assert desk.row().status == "completed" and desk.made() == {desk.row().output_file_id}


@pytest.mark.parametrize("step", ["write", "commit"])
def test_a_failure_while_files_are_made_leaves_nothing_and_a_second_try_one_file(desk, monkeypatch, step) -> None:
    desk.record(1, 2, 3)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(PendingFile, step, fail)
        with pytest.raises(OSError):
            desk.finisher.finish(desk.batch())
    assert desk.row().status == "finalizing" and desk.row().output_file_id is None
    assert not {name for name in desk.made() if ".part" not in name}
    desk.finisher.finish(desk.batch())
    assert desk.row().status == "completed"
    assert {name for name in desk.made() if ".part" not in name} == {desk.row().output_file_id}
    with desk.records.read() as connection:
        [record] = connection.execute(select(files)).all()
        assert not connection.execute(select(batch_lines)).all()
    assert record.num_bytes == (desk.folder / record.id).stat().st_size and record.purpose == "batch_output"


def test_an_answer_that_comes_while_files_are_made_is_in_them(desk, monkeypatch) -> None:
    desk.record(1)
    write = PendingFile.write

    def answer(file: PendingFile, piece: bytes) -> None:
        desk.record(2)
        write(file, piece)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(PendingFile, "write", answer)
        desk.finisher.finish(desk.batch())
    desk.finisher.finish(desk.batch())
    row = desk.row()
    assert (row.status, row.num_succeeded, row.num_expired) == ("expired", 2, 1)
    assert [
        path.read_bytes().count(b"\n") for path in (desk.folder / row.output_file_id, desk.folder / row.error_file_id)
    ] == [2, 1]


def test_a_batch_that_is_cancelled_while_its_files_are_made_is_ended_as_cancelled(desk, monkeypatch) -> None:
    desk.record(1)
    write = PendingFile.write

    def cancel(file: PendingFile, piece: bytes) -> None:
        with desk.records.begin() as connection:
            connection.execute(update(batches).values(status="cancelling"))
        write(file, piece)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(PendingFile, "write", cancel)
        desk.finisher.finish(desk.batch())
    assert desk.row().status == "cancelling" and not desk.made()
    desk.finisher.finish(desk.batch())
    row = desk.row()
    assert (row.status, row.num_cancelled, len(desk.made())) == ("cancelled", 2, 2)
