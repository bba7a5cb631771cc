"""A stop always ends the service, even without its terminal or some of its processes."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.started import HONCHO, START, Started, end_all


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "not reading"])
def test_the_end_does_not_wait_for_the_reader_of_the_output(
    tmp_path: Path, pipe: tuple[int, int], is_gone: bool, number: signal.Signals
) -> None:
    """As in `make run | tee log` when Ctrl-C has ended or stopped tee."""
    reader, writer = pipe
    (tmp_path / "data").mkdir()
    started = Started(tmp_path / "data", "redis", "api", output=writer)
    os.close(writer)
    started.wait_live()
    if is_gone:
        os.close(reader)
    for _ in range(50):  # each is a line or more of output
        assert started.get("/v1/jobs").status_code == 200
    end_all(started, number)
    assert started.process.returncode == 128 + number


@pytest.mark.parametrize("command", [START, HONCHO], ids=["ours", "honcho"])
@pytest.mark.parametrize("at", [0, 1])
def test_the_death_of_one_process_ends_all(tmp_path: Path, command: list[str], at: int) -> None:
    """With honcho that is the process that reads a command's output."""
    (tmp_path / "data").mkdir()
    started = Started(tmp_path / "data", "redis", "api", command=command).wait_live()
    end_all(started, signal.SIGKILL, psutil.Process(started.process.pid).children()[at])
