"""Valkey's append-only file on a full disk: a real Valkey with a limit on the size of files."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from common.process import embedded
from common.process.append_only import mend, mend_file, sync
from common.process.valkey_seams import append_always
from common.settings import read_settings

COMMAND = b"*2\r\n$3\r\nGET\r\n$6\r\na\r\n\0\0\0\r\n"  # zero bytes after a line's end, inside of a value


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="a limit for another process's files")

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="a slow disk is made of a C compiler and LD_PRELOAD"
)
SLOW_DISK = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int fdatasync(int fd) {
    char link[64], name[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, name, sizeof name - 1) > 0 && strstr(name, ".incr.aof")) {
        close(creat(getenv("MARKER"), 0600));
        sleep(10);
    }
    return 0;
}
"""


class Valkey:
    """An embedded Valkey that can be killed and restarted on the same files."""

    def __init__(self, folder: Path) -> None:
        self.settings = read_settings({"OMNI_DATA_DIR": str(folder), "REDIS_URL": ""})
        self.redis: Redis = Redis.from_url(self.settings.redis.url)

    def start(self, *options: str, environment: Mapping[str, str] = os.environ) -> None:
        """Start without `mend`, which tests call themselves. Raises AssertionError if Valkey ends at once."""
        Path(self.settings.redis.socket_path).unlink(missing_ok=True)
        command = [*embedded.command(self.settings), *options]
        self.process = subprocess.Popen(command, env=environment, restore_signals=False)
        self.wait_for(self.redis.ping)

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "Valkey does not start"
            try:
                if condition():
                    return
            except RedisError:
                pass
            time.sleep(0.005)
        raise TimeoutError

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def persistence(self, name: str) -> int | str:
        return self.redis.info("persistence")[name]

    def may_write(self, num_bytes: int) -> None:
        """Limit the size of files, as if the disk were full."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def rewrite(self) -> None:
        number = self.persistence("aof_rewrites")
        self.redis.bgrewriteaof()
        self.wait_for(lambda: self.persistence("aof_rewrites") != number)
        self.wait_for(lambda: not self.persistence("aof_rewrite_in_progress"))

    def fill_and_free_the_disk(self, number: int) -> None:
        """Write a value that fails half-way, and one when there is room again."""
        file = max(self.settings.redis.data_dir.glob("appendonlydir/*.incr.aof"))
        self.may_write(file.stat().st_size + 500)
        self.redis.set(f"within {number}", "x" * 3000)
        self.wait_for(lambda: self.persistence("aof_last_write_status") == "err")
        self.may_write(resource.RLIM_INFINITY)
        self.wait_for(lambda: self.persistence("aof_last_write_status") == "ok")
        self.redis.set(f"after {number}", "x" * 100)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Valkey inherits it: a write past the limit fails
    valkey = Valkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.kill()
    signal.signal(signal.SIGXFSZ, before)


@only_linux
def test_no_acknowledged_command_is_lost_on_a_disk_that_fills_up_repeatedly(valkey: Valkey) -> None:
    valkey.rewrite()
    append_always(valkey.process.pid, valkey.settings.redis.data_dir)
    for number in range(3):
        valkey.fill_and_free_the_disk(number)
    valkey.kill()
    valkey.start()
    assert valkey.redis.dbsize() == 6


@only_linux
def test_without_appending_commands_are_lost_and_valkey_refuses_to_start(valkey: Valkey) -> None:
    """The control. Turns red when Valkey no longer needs `append_always` and `mend`."""
    valkey.rewrite()
    for number in range(3):
        valkey.fill_and_free_the_disk(number)
    valkey.kill()
    with pytest.raises(AssertionError, match="does not start"):
        valkey.start()
    mend(valkey.settings.redis.data_dir)
    valkey.start()
    assert valkey.redis.dbsize() == 4


@only_linux
def test_zero_bytes_are_removed_and_no_command_is_lost(valkey: Valkey) -> None:
    valkey.rewrite()
    valkey.fill_and_free_the_disk(0)
    valkey.kill()
    mend(valkey.settings.redis.data_dir)
    valkey.start()
    assert sorted(valkey.redis.keys()) == [b"after 0", b"within 0"]


@pytest.mark.parametrize(
    ("held", "left"),
    [
        (b"", b""),
        (COMMAND, COMMAND),
        (b"\0" * 9 + COMMAND, COMMAND),
        (COMMAND + b"\0" * 5000 + COMMAND, COMMAND * 2),
        (COMMAND + b"\0" * 7, COMMAND),
        (b"\0" + COMMAND + b"\0" + COMMAND[:-4], COMMAND + COMMAND[:-4]),
        (COMMAND + b"?\r\n\0" + COMMAND, COMMAND + b"?\r\n\0" + COMMAND),
    ],
)
def test_zero_bytes_are_removed_only_between_commands(tmp_path: Path, held: bytes, left: bytes) -> None:
    path = tmp_path / "appendonly.aof.1.incr.aof"
    path.write_bytes(held)
    mend_file(path)
    assert path.read_bytes() == left
    assert list(tmp_path.iterdir()) == [path]


def test_the_files_of_a_killed_rewrite_are_removed(tmp_path: Path) -> None:
    (tmp_path / "temp-rewriteaof-123.aof").write_bytes(b"half")
    mend(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_append_only_file_stays_small(valkey: Valkey) -> None:
    """20 MB are written and 1 MB is held: the held data bounds what a start reads."""
    for _ in range(20):
        valkey.redis.set("same", b"x" * 2**20)
    valkey.wait_for(lambda: int(valkey.persistence("aof_current_size")) < 6 * 2**20)


def count_until_killed(valkey: Valkey, folder: Path, *options: str) -> int:
    """The last number that Valkey acknowledged before it was killed during a sync, or after 1.5 s, on a slow disk."""
    (folder / "slow.c").write_text(SLOW_DISK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "slow.so", folder / "slow.c"], check=True)
    marker = folder / "is syncing"
    valkey.kill()
    valkey.start(*options, environment=os.environ | {"LD_PRELOAD": str(folder / "slow.so"), "MARKER": str(marker)})
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline and not marker.exists():
        valkey.redis.incr("number")
    said = int(valkey.redis.incr("number"))
    valkey.kill()
    return said


@needs_compiler
def test_a_killed_valkey_keeps_acknowledged_commands_on_a_slow_disk(valkey: Valkey, tmp_path: Path) -> None:
    said = count_until_killed(valkey, tmp_path)
    valkey.start()
    assert int(valkey.redis.get("number")) == said


@needs_compiler
def test_with_everysec_it_loses_some(valkey: Valkey, tmp_path: Path) -> None:
    """The control. Turns red when Valkey writes before it replies even during a sync: `Syncing` can go then."""
    said = count_until_killed(valkey, tmp_path, "--appendfsync", "everysec")
    valkey.start()
    assert int(valkey.redis.get("number")) < said


def test_sync_covers_every_file_and_ignores_one_that_disappears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    for number in range(2):
        (folder / f"appendonly.aof.{number}.incr.aof").touch()
    (folder / "appendonly.aof.2.incr.aof").symlink_to("gone")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync(tmp_path)
    assert sorted(synced) == sorted(path.stat().st_ino for path in folder.glob("*.[01].incr.aof"))


@only_linux
def test_the_embedded_valkey_appends_after_each_rewrite_too(tmp_path: Path) -> None:
    """By `python -m common.process.embedded`, the process of the Procfile."""
    environment = os.environ | {"OMNI_DATA_DIR": str(tmp_path), "REDIS_URL": ""}
    valkey = Valkey(tmp_path)
    valkey.process = subprocess.Popen([sys.executable, "-m", "common.process.embedded"], env=environment)
    try:
        valkey.wait_for(valkey.redis.ping)
        valkey.rewrite()
        assert valkey.redis.config_get("appendfsync") == {"appendfsync": "no"}
        valkey.wait_for(lambda: appends_to(int(valkey.redis.info("server")["process_id"]), ".2.incr.aof"))
    finally:
        valkey.redis.close()  # it would be waited for
        valkey.process.terminate()
        valkey.process.wait()


def appends_to(pid: int, name: str) -> bool:
    """True if the process has a file of that name open in append mode."""
    [fd] = [link.name for link in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(link).endswith(name)]
    flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()[1]
    return bool(int(flags.split()[1], 8) & os.O_APPEND)
