"""The `redis` process: one Valkey per folder through all starts and deaths, and pauses for a refused file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from common.process.embedded import MAX_PAUSE_S, Endings
from common.process.valkey_seams import server_path
from common.settings import ROOT, read_settings
from tests.chaos.harness import wait_until
from tests.service import free_port

Start = Callable[..., "Embedded"]


class Embedded:
    """`python -m common.process.embedded` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.settings = read_settings({"OMNI_DATA_DIR": str(folder), "REDIS_URL": ""})
        self.redis: Redis = Redis.from_url(self.settings.redis.url)
        self.output = folder.with_suffix(f".{time.monotonic_ns()}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "common.process.embedded"],
                cwd=ROOT,
                env=environment | {"OMNI_DATA_DIR": str(folder), "REDIS_URL": ""},
                stdout=output,
                stderr=output,
            )

    def servers(self) -> list[psutil.Process]:
        """The Valkey of this process; None without one."""
        return psutil.Process(self.process.pid).children()

    def wait_up(self) -> "Embedded":
        """Wait until this process's own Valkey replies, not a predecessor's."""
        wait_until(lambda: self.servers() and self.redis.ping())
        return self

    def said(self) -> str:
        return self.output.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes in one folder; all end with the test."""
    started: list[Embedded] = []

    def more() -> Embedded:
        started.append(Embedded(tmp_path / "data"))
        return started[-1]

    yield more
    for one in started:
        one.redis.close()
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(15)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of the folder and their sizes. The lock's time and the log's lines may change."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_size) for name, stat in found.items()}


def test_a_second_process_ends_with_one_sentence_and_changes_nothing(start: Start) -> None:
    first = start().wait_up()
    first.redis.set("kept", "yes")
    before = files(first.settings.redis.data_dir)
    second = start()
    assert second.process.wait(20) == 2
    [sentence] = second.said().splitlines()
    assert f"OMNI_DATA_DIR={first.settings.redis.data_dir} is in use by process {first.process.pid}" in sentence
    assert files(first.settings.redis.data_dir) == before
    assert first.redis.get("kept") == b"yes"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to leave"])
def test_a_successor_starts_while_the_first_is_stopping(start: Start, number: int) -> None:
    first = start().wait_up()
    first.redis.set("kept", "yes")
    first.process.send_signal(number)
    second = start()
    second.wait_up()
    assert second.redis.get("kept") == b"yes"
    assert second.said() == ""


def test_no_valkey_starts_while_that_of_a_dead_parent_is_ending(start: Start) -> None:
    first = start().wait_up()
    first.redis.set("kept", "yes")
    [stale] = first.servers()
    socket = first.settings.redis.socket_path.stat().st_ino
    stale.suspend()  # it takes its time to end
    first.process.kill()
    first.process.wait()
    second = start()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.process.wait(3)
        assert not second.servers()
        assert first.settings.redis.socket_path.stat().st_ino == socket
    finally:
        stale.resume()
    second.wait_up()
    assert second.redis.get("kept") == b"yes"


def test_a_valkey_without_the_lock_keeps_its_socket(start: Start, tmp_path: Path) -> None:
    """As from an older version, or when the lock's file was removed."""
    first = start().wait_up()
    (first.settings.redis.data_dir / "lock").unlink()
    second = start()
    assert second.process.wait(20) == 2
    [sentence] = second.said().splitlines()
    assert f"OMNI_DATA_DIR={first.settings.redis.data_dir} is in use by a Valkey" in sentence
    assert first.redis.ping()


def test_files_are_private_in_a_folder_that_was_open(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    before = os.umask(0o022)
    try:
        one = start().wait_up()
    finally:
        os.umask(before)
    one.redis.set("prompt", "a secret")
    one.redis.bgrewriteaof()
    wait_until(lambda: one.redis.info("persistence")["aof_rewrite_in_progress"] == 0)
    assert folder.stat().st_mode & 0o777 == 0o700
    open_to_others = [path for path in folder.rglob("*") if path.lstat().st_mode & 0o077]
    assert not open_to_others


def test_a_file_that_valkey_refuses_is_retried_with_growing_pauses_logged_once_and_left_unchanged(start: Start) -> None:
    one = start().wait_up()
    one.redis.set("kept", "yes")
    one.process.terminate()
    one.process.wait(15)
    [path] = one.settings.redis.data_dir.glob("appendonlydir/*.incr.aof")
    sound = path.read_bytes()
    damaged = sound + b"this is no command\r\n" + sound
    path.write_bytes(damaged)
    log = one.settings.redis.data_dir / "valkey.log"
    log.unlink()
    other = start()
    wait_until(lambda: log.read_text().count("Bad file format") >= 4)
    [sentence] = other.said().splitlines()
    assert "status 1: Bad file format reading the append only file" in sentence
    assert path.read_bytes() == damaged
    assert other.process.poll() is None
    path.write_bytes(sound)
    other.wait_up()
    assert other.redis.get("kept") == b"yes"


def test_the_pauses_grow_after_refusals_but_not_after_kills(tmp_path: Path) -> None:
    now = 0.0
    endings = Endings(read_settings({"OMNI_DATA_DIR": str(tmp_path), "REDIS_URL": ""}), clock=lambda: now)
    pauses = [endings.pause_after(1) for _ in range(20)]
    assert pauses == sorted(pauses) and pauses[-1] == MAX_PAUSE_S
    assert endings.pause_after(-9) < 1
    assert endings.pause_after(1) < 1


def test_a_redis_of_our_own_that_is_away_is_said_within_seconds_and_its_password_is_not(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {"REDIS_URL": f"redis://:secret@127.0.0.1:{port}", "OMNI_DATA_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "common.process.embedded"]
    with (
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process,
        ending(process),
    ):
        assert process.stdout is not None
        told = [process.stdout.readline(), process.stdout.readline()]
        assert f"waiting for Redis at 127.0.0.1:{port}, where REDIS_URL leads: Error 111" in told[1]
        assert "secret" not in "".join(told)
        options = ["--port", str(port), "--requirepass", "secret", "--save", "", "--dir", str(tmp_path)]
        with subprocess.Popen([server_path(), *options], stdout=subprocess.DEVNULL) as server, ending(server):
            assert "Redis answers" in process.stdout.readline()


@contextmanager
def ending(process: "subprocess.Popen[Any]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
