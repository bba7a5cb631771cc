"""The bytes of files: whole or not there, wherever fsspec puts them."""

import os
import threading
from collections import namedtuple
from uuid import uuid4

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from common.files.storage import FileStorage
from common.process import disk_guard
from common.settings import SettingsError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path):
    return FileStorage(f"file://{tmp_path}/files" if request.param == "file" else f"memory://{uuid4().hex}/files")


def written(storage, name, *pieces):
    with storage.create(name) as pending:
        for piece in pieces:
            pending.write(piece)


def test_a_committed_file_is_read_back_whole_and_in_ranges(storage):
    written(storage, "file-a", b"0123", b"456789")
    assert b"".join(storage.pieces("file-a")) == b"0123456789"
    assert b"".join(storage.pieces("file-a", 3, 7)) == b"3456"
    assert storage.size("file-a") == 10


def test_nobody_sees_a_file_before_it_is_committed(storage):
    pending = storage.create("file-a")
    pending.write(b"half")
    with pytest.raises(FileNotFoundError):
        storage.open("file-a")
    pending.commit()
    assert b"".join(storage.pieces("file-a")) == b"half"


def test_an_exception_while_writing_leaves_nothing(storage):
    with pytest.raises(RuntimeError), storage.create("file-a") as pending:
        pending.write(b"half")
        raise RuntimeError
    assert storage.old_names(-60) == []


def test_a_file_written_again_replaces_the_one_before_and_its_readers_keep_theirs(tmp_path):
    storage = FileStorage(f"file://{tmp_path}/files")
    written(storage, "file-a", b"old")
    with storage.open("file-a") as reader:
        written(storage, "file-a", b"newer")
        assert reader.read() == b"old"
    assert b"".join(storage.pieces("file-a")) == b"newer"


def test_a_committed_file_can_still_be_discarded(storage):
    pending = storage.create("file-a")
    pending.commit()
    pending.discard()
    assert storage.old_names(-60) == []


def test_a_file_that_was_not_committed_is_discarded_beside_one_of_the_same_name(storage):
    pending = storage.create("file-a")
    pending.write(b"late")
    written(storage, "file-a", b"first")
    pending.discard()
    assert b"".join(storage.pieces("file-a")) == b"first"
    assert storage.old_names(-60) == ["file-a"]


def test_a_file_that_is_not_there_is_deleted_without_a_fault(storage):
    storage.delete("file-a")
    assert storage.old_names(0) == []


@pytest.mark.parametrize("name", ["../omni.db", "a/b", "", ".", "a" * 129, "a\x00"])
def test_a_name_that_is_no_id_leads_nowhere(storage, name):
    with pytest.raises(FileNotFoundError):
        storage.open(name)
    with pytest.raises(FileNotFoundError):
        storage.create(name)


def test_the_bytes_are_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1])
    written(FileStorage(f"file://{tmp_path}/files"), "file-a", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_the_folder_of_files_is_private(tmp_path):
    written(FileStorage(f"file://{tmp_path}/files"), "file-a", b"x")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700


def test_threads_write_the_same_file_without_a_mixture(tmp_path):
    storage = FileStorage(f"file://{tmp_path}/files")
    threads = [
        threading.Thread(target=written, args=(storage, "file-a", *[bytes([65 + n]) * 1000] * 50)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = b"".join(storage.pieces("file-a"))
    assert len(found) == 50_000 and len(set(found)) == 1
    assert storage.old_names(-60) == ["file-a"]


@pytest.mark.parametrize(("free", "fits"), [(257 * 2**20, True), (256 * 2**20, False)])
def test_uploads_end_before_the_disk_guard_begins(tmp_path, monkeypatch, free, fits):
    monkeypatch.setattr("common.files.storage.shutil.disk_usage", lambda _: Usage(10**12, 0, free))
    assert FileStorage(f"file://{tmp_path}/files").has_room(2**20) is fits
    assert free - 2**20 > disk_guard.RESERVE * disk_guard.LOOSENED


class Asynchronous(AsyncFileSystem):
    """As those of object stores."""


@pytest.mark.parametrize("protocol", ["asynchronous", "s3", "gs"])
def test_a_file_system_that_needs_an_event_loop_is_refused_with_what_to_do_instead(protocol):
    fsspec.register_implementation("asynchronous", Asynchronous, clobber=True)
    with pytest.raises(SettingsError, match="mount the store as a folder"):
        FileStorage(f"{protocol}://bucket/folder").check()


def test_a_place_that_nothing_reaches_is_one_sentence_about_the_setting():
    with pytest.raises(SettingsError, match="OMNI_FILES_URL"):
        FileStorage("nosuch://bucket/folder").open("file-a")
