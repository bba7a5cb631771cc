"""OMNI_DATA_DIR: closed to other users of the machine, owned by one process at a time, refused with one sentence."""

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


def test_a_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    make_private(tmp_path / "new" / "data")
    assert mode(tmp_path / "new" / "data") == 0o700


@pytest.mark.parametrize("holds", ["", "appendonlydir", "valkey.log", "lock"])
def test_a_folder_that_is_empty_or_already_ours_is_closed_to_others(tmp_path: Path, holds: str) -> None:
    tmp_path.chmod(0o755)
    if holds:
        (tmp_path / holds).touch()
    make_private(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_that_others_use_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderRefused, match=r"OMNI_DATA_DIR=.* is open to other users .*mode 755.* chmod 700"):
        make_private(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_folder_like_tmp_is_refused_though_it_is_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(FolderRefused, match="mode 1777"):
        make_private(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_what_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderRefused, match=r"^OMNI_DATA_DIR=.*choose another\.$"):
        take(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FolderRefused, match="cannot be written"):
        take(tmp_path)


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    fd = take(tmp_path)
    with pytest.raises(FolderRefused, match=f"OMNI_DATA_DIR={tmp_path} is in use by process {os.getpid()},"):
        take(tmp_path)
    os.close(fd)
    os.close(take(tmp_path))


def test_who_only_asks_takes_nothing_away(tmp_path: Path) -> None:
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


def test_sigkill_gives_the_folder_back_at_once(tmp_path: Path) -> None:
    with holder(tmp_path, "staying", 60) as first:
        first.kill()
        first.wait()
        began = time.monotonic()
        os.close(take(tmp_path))
        assert time.monotonic() - began < data_folder.RUNNING_S


def test_an_owner_that_leaves_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path, "leaving", 2 * data_folder.RUNNING_S):
        os.close(take(tmp_path))


def test_what_a_dead_owner_left_behind_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Valkey has the same lock, and may hang."""
    fd, dead = take(tmp_path), ended_process()
    os.pwrite(fd, f"{dead:<31}\n".encode(), 0)
    monkeypatch.setattr(data_folder, "STOPPING_S", 1.5 * data_folder.RUNNING_S)
    began = time.monotonic()
    with pytest.raises(FolderRefused, match=f"process {dead}"):
        take(tmp_path)
    assert time.monotonic() - began > data_folder.RUNNING_S
    os.close(fd)


def test_a_lock_that_says_nothing_still_holds(tmp_path: Path) -> None:
    """As after a full disk."""
    fd = take(tmp_path)
    os.ftruncate(fd, 0)
    with pytest.raises(FolderRefused, match="another process"):
        take(tmp_path)
    mark_stopping(fd)
    os.close(fd)
