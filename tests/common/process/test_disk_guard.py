"""No acknowledged command is lost on a full disk, even if Valkey is killed before there is room again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from common.process import disk_guard
from common.process.disk_guard import DiskGuard
from common.redis.connection import connect, is_passing
from common.redis.script import Scripts
from tests.chaos.campaign import small_disk
from tests.chaos.harness import wait_until

PIECE = "x" * 8192


@pytest.fixture
def disk() -> Iterator[Path]:
    with ExitStack() as stack:
        folder = small_disk(stack, 32)
        if folder is None:
            pytest.skip("no file system can be mounted here")
        yield folder


def embedded(folder: Path, main: str) -> "subprocess.Popen[bytes]":
    """The redis process on this disk, after the code in `main` has changed it."""
    code = f"from common.process import disk_guard, embedded; {main}; embedded.main()"
    environment = os.environ | {"OMNI_DATA_DIR": str(folder), "REDIS_URL": ""}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def answering(folder: Path) -> "Redis":
    redis = connect(f"unix://{folder}/valkey.sock", retries=0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            redis.ping()
            return redis
        except RedisError:
            time.sleep(0.05)
    raise TimeoutError("Valkey does not answer")


def fill(redis: "Redis", folder: Path) -> int:
    """Write until a refusal while another file fills the disk. Returns the number of acknowledged writes."""
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        for number in count():
            with suppress(OSError):
                ballast.write(PIECE.encode())
            try:
                redis.set(f"key {number}", PIECE)
            except ResponseError as error:
                assert is_passing(error)
                return number
            time.sleep(0.002)  # the disk is full after some looks at it
    raise AssertionError("it was never refused")


def lost(folder: Path, main: str) -> int:
    """The number of acknowledged writes lost after a kill on the full disk and a restart with room."""
    process = embedded(folder, main)
    try:
        redis = answering(folder)
        acknowledged = fill(redis, folder)
        os.kill(int(redis.info("server")["process_id"]), signal.SIGKILL)
        redis.close()
        (folder / "ballast").unlink()
        return acknowledged - int(answering(folder).dbsize())
    finally:
        process.terminate()
        process.wait(20)


def test_no_acknowledged_command_is_lost_when_valkey_is_killed_on_a_full_disk(disk: Path) -> None:
    assert lost(disk, "pass") == 0


def test_without_the_guard_commands_are_lost(disk: Path) -> None:
    """The control. Turns red when Valkey no longer acknowledges failed writes: the guard can go then."""
    for _ in range(3):  # Valkey may refuse in time by chance
        if lost(disk, "disk_guard.DiskGuard.check = lambda self: None") > 0:
            return
        for place in disk.iterdir():
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    pytest.fail("no acknowledged write was lost")


def test_writes_are_refused_until_there_is_room_again(
    redis: "Redis", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = DiskGuard(tmp_path, redis)
    monkeypatch.setattr(disk_guard, "RESERVE", 2**60)
    monkeypatch.setattr(disk_guard, "SMALLEST_SHARE", 1)
    guard.check()
    try:
        with pytest.raises(ResponseError) as refused:
            Scripts(redis).run("register", "q", 1000, "")
        assert is_passing(refused.value)
    finally:
        monkeypatch.setattr(disk_guard, "RESERVE", 0)
        guard.check()
    assert Scripts(redis).run("register", "q", 1000, "")


def test_the_guard_does_not_keep_a_stopping_valkey_waiting(
    redis: "Redis", valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = redis.info("clients")["connected_clients"]
    guard = DiskGuard(tmp_path, connect(valkey_url, retries=0))
    for reserve in (2**60, 0):
        monkeypatch.setattr(disk_guard, "RESERVE", reserve)
        monkeypatch.setattr(disk_guard, "SMALLEST_SHARE", 1)
        guard.check()
        assert redis.config_get("min-replicas-to-write") == {"min-replicas-to-write": str(int(reserve > 0))}
        wait_until(lambda: redis.info("clients")["connected_clients"] == before, 5)
