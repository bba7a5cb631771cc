"""What no record names, and what has expired, goes; what a batch reads or an upload still writes, stays."""

import os

import pytest

from common.files import housekeeping
from common.files.housekeeping import clean
from common.files.storage import FileStorage
from common.records.batches import add_batch
from common.records.files import FileRecord, add_file, file_of

DAY = 24 * 3600


@pytest.fixture
def storage(tmp_path):
    return FileStorage(f"file://{tmp_path}/files")


@pytest.fixture
def put(records, storage, tmp_path):
    def add(name, *, expires=None, age_s=0.0, has_record=True):
        with storage.create(name) as pending:
            pending.write(b"x")
        path = tmp_path / "files" / name
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
        if has_record:
            with records.begin() as connection:
                add_file(connection, FileRecord(name, "me", 1.0, expires, 1, "a", "batch"))

    return add


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "files").iterdir())


def test_expired_files_go_with_their_records_in_pages(records, storage, put, tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "PAGE", 2)
    for number in range(5):
        put(f"file-{number}", expires=100.0)
    put("file-kept", expires=101.0)
    put("file-forever")
    assert clean(records, storage, now=100.0) == (5, 0)
    assert names(tmp_path) == ["file-forever", "file-kept"]
    with records.read() as connection:
        assert file_of(connection, "me", "file-0", 0.0) is None and file_of(connection, "me", "file-kept", 0.0)


def test_the_expired_input_of_a_batch_stays_until_the_batch_has_ended(records, storage, put, tmp_path):
    put("file-a", expires=100.0)
    batch = {"id": "b", "owner": "me", "dialect": "openai", "endpoint": "/v1/x", "completion_window": "24h"}
    with records.begin() as connection:
        add_batch(
            connection, batch | {"input_file_id": "file-a", "status": "in_progress", "created": 1.0, "expires": 9}
        )
    assert clean(records, storage, now=200.0) == (0, 0)
    assert names(tmp_path) == ["file-a"]


def test_bytes_without_a_record_go_after_a_day_and_younger_ones_may_still_get_one(records, storage, put, tmp_path):
    put("file-young", has_record=False)
    put("file-old", has_record=False, age_s=DAY + 60)
    put("file-known", age_s=DAY + 60)
    storage.create("file-cut")  # an upload whose process was killed
    [cut] = [path for path in (tmp_path / "files").iterdir() if ".part" in path.name]
    assert clean(records, storage) == (0, 1)
    os.utime(cut, (0, 0))
    assert clean(records, storage) == (0, 1)
    assert names(tmp_path) == ["file-known", "file-young"]


def test_a_crash_between_the_record_and_the_bytes_leaves_an_orphan_that_goes_later(records, storage, put, monkeypatch):
    put("file-a", expires=100.0, age_s=DAY + 60)
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(FileStorage, "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        clean(records, storage, now=100.0)
    assert clean(records, storage, now=100.0) == (0, 1)


def test_nothing_to_do_is_no_fault(records, storage):
    assert clean(records, storage) == (0, 0)
