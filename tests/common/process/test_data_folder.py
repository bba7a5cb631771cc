"""OMNI_DATA_DIR: private, owned by one process at a time, refused with one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.process import data_folder
from common.process.data_folder import FolderRefused, make_private, mark_stopping, owner_of, take


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    make_private(tmp_path / "new" / "data")
    assert mode(tmp_path / "new" / "data") == 0o700


@pytest.mark.parametrize("holds", ["", "appendonlydir", "valkey.log", "lock"])
def test_an_empty_folder_or_one_of_ours_is_made_private(tmp_path: Path, holds: str) -> None:
    tmp_path.chmod(0o755)
    if holds:
        (tmp_path / holds).touch()
    make_private(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_with_other_files_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderRefused, match=r"OMNI_DATA_DIR=.* is open to other users .*mode 755.* chmod 700"):
        make_private(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_sticky_folder_like_tmp_is_refused_even_if_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(FolderRefused, match="mode 1777"):
        make_private(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderRefused, match=r"^OMNI_DATA_DIR=.*choose another\.$"):
        take(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FolderRefused, match="cannot be written"):
        take(tmp_path)


def test_a_second_owner_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    fd = take(tmp_path)
    with pytest.raises(FolderRefused, match=f"OMNI_DATA_DIR={tmp_path} is in use by process {os.getpid()},"):
        take(tmp_path)
    os.close(fd)
    os.close(take(tmp_path))


def test_the_process_that_started_the_first_owner_is_named_while_it_runs(tmp_path: Path) -> None:
    """It ends all processes in order; the owner alone would end Valkey while the worker still needs it."""
    for starter, named in ((os.getppid(), os.getppid()), (ended_process(), os.getpid())):
        fd = take(tmp_path, starter)
        with pytest.raises(FolderRefused, match=f"is in use by process {named},"):
            take(tmp_path)
        mark_stopping(fd)
        owner = owner_of(tmp_path)
        assert owner is not None and owner.is_stopping and owner.name == f"process {named}"
        os.close(fd)


def test_asking_for_the_owner_does_not_take_the_lock(tmp_path: Path) -> None:
    assert owner_of(tmp_path) is None
    fd = take(tmp_path)
    owner = owner_of(tmp_path)
    assert owner is not None and owner.pid == os.getpid() and not owner.is_stopping
    os.close(fd)
    assert owner_of(tmp_path) is None


HOLDER = """
import os, sys, time
from pathlib import Path
from common.process.data_folder import mark_stopping, take
fd = take(Path(sys.argv[1]))
if sys.argv[2] == "leaving":
    mark_stopping(fd)
print(os.getpid(), flush=True)
time.sleep(float(sys.argv[3]))
"""


def holder(folder: Path, word: str, seconds: float) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), word, str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_sigkill_releases_the_folder_at_once(tmp_path: Path) -> None:
    with holder(tmp_path, "staying", 60) as first:
        first.kill()
        first.wait()
        os.close(take(tmp_path))


def test_an_older_version_that_is_stopping_is_known_by_its_word(tmp_path: Path) -> None:
    fd = take(tmp_path / "data")
    os.pwrite(fd, f"{os.getpid()} leaving".ljust(31).encode(), 0)
    owner = owner_of(tmp_path / "data")
    assert owner is not None and owner.is_stopping


def test_a_start_waits_for_an_owner_that_is_stopping(tmp_path: Path) -> None:
    with holder(tmp_path, "leaving", 2 * data_folder.RUNNING_S):
        os.close(take(tmp_path))


def test_a_start_waits_for_the_valkey_of_a_dead_owner_and_then_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey holds the lock too, and may hang."""
    fd, dead = take(tmp_path), ended_process()
    os.pwrite(fd, f"{dead:<31}\n".encode(), 0)
    monkeypatch.setattr(data_folder, "STOPPING_S", 1.5 * data_folder.RUNNING_S)
    began = time.monotonic()
    with pytest.raises(FolderRefused, match=f"process {dead}"):
        take(tmp_path)
    assert time.monotonic() - began > data_folder.RUNNING_S
    os.close(fd)


def test_a_lock_file_without_a_pid_still_locks(tmp_path: Path) -> None:
    """As a full disk leaves it."""
    fd = take(tmp_path)
    os.ftruncate(fd, 0)
    with pytest.raises(FolderRefused, match="another process"):
        take(tmp_path)
    mark_stopping(fd)
    os.close(fd)
