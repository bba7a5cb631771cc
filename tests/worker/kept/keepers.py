"""A keeper process for a test, and processes that use it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.process.keeper.supervised import KeeperProcess

ROOT = Path(__file__).parents[3]
CLIENT = """
import os, sys
from worker.kept.keep import Keep
keep = Keep(int(sys.argv[1]))
{body}
"""


@contextmanager
def keeper() -> Iterator[KeeperProcess]:
    process = KeeperProcess()
    process.tick()
    try:
        yield process
    finally:
        process.end()


def kill(process: KeeperProcess) -> None:
    """Kill the keeper and start the next one."""
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    process._start_at = 0.0
    process.tick()


def client(process: KeeperProcess, body: str) -> "subprocess.CompletedProcess[str]":
    """Run a process that calls `keep`."""
    command = [sys.executable, "-c", CLIENT.format(body=body), str(process.door_fd)]
    return subprocess.run(command, pass_fds=[process.door_fd], cwd=ROOT, capture_output=True, text=True, timeout=60)


def until(is_true: object, timeout_s: float = 10.0) -> None:
    assert callable(is_true)
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
