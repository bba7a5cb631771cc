"""A stop always ends the service, even without its terminal; a killed process does not."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.chaos.harness import wait_until
from tests.started import HONCHO, Started, end_all


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


@pytest.mark.parametrize("at", [0, 1])
def test_under_honcho_the_death_of_one_process_ends_all(tmp_path: Path, at: int) -> None:
    """The process that reads a command's output."""
    (tmp_path / "data").mkdir()
    started = Started(tmp_path / "data", "redis", "api", command=HONCHO).wait_live()
    end_all(started, signal.SIGKILL, psutil.Process(started.process.pid).children()[at])


def test_killed_processes_start_again_and_jobs_are_kept(tmp_path: Path) -> None:
    """The pids that the log names: those of Valkey's parent, of the API's and of the worker's."""
    (tmp_path / "data").mkdir()
    started = Started(tmp_path / "data", "redis", "api", "worker")
    asked = {
        "model": "omni-demo",
        "messages": [{"role": "user", "content": "Once"}],
        "max_tokens": 5,
        "background": True,
    }
    headers = {"Authorization": "Bearer sk-local"}
    jobs = []
    try:
        for _ in range(3):
            wait_until(lambda: started.get("/health").status_code == 200, 60)
            answer = httpx2.post(f"{started.service.url}/v1/chat/completions", json=asked, headers=headers, timeout=30)
            assert answer.status_code == 202, answer.text
            jobs.append(answer.json()["id"])
            first = psutil.Process(started.process.pid).children()[0]  # by pid: a successor is the last
            first.kill()
            first.wait(10)
        for job in jobs:
            wait_until(lambda job=job: started.get(f"/v1/chat/completions/{job}").status_code == 200, 60)  # type: ignore[misc]
    finally:
        end_all(started, signal.SIGTERM)
