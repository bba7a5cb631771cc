"""One start of the service by `make run`, `omni serve` or plain honcho, and the processes it leaves behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil

from tests.chaos.harness import wait_until
from tests.service import ROOT, RunningService

START = [sys.executable, "-m", "common.process.start"]
HONCHO = [sys.executable, "-m", "honcho", "start", "-e", os.devnull]


class Started:
    """One start of the service in a folder, on ports of its own."""

    def __init__(self, folder: Path, *processes: str, command: list[str] = START, output: int | None = None) -> None:
        """`output` is where it writes, if not into a file."""
        self.service = RunningService(folder)
        self.command = command
        self.log_path = folder.with_suffix(f".{time.monotonic_ns()}")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *processes],
                cwd=ROOT,
                env=self.service.env,
                stdout=log if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def everybody(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_live(self) -> "Started":
        """Wait until its API answers and reads from Redis."""
        wait_until(lambda: self.get("/v1/jobs").status_code == 200, 60, self.log_path.name)
        return self

    def get(self, path: str) -> httpx2.Response:
        try:
            return httpx2.get(f"{self.service.url}{path}", headers={"Authorization": "Bearer sk-local"}, timeout=10)
        except httpx2.HTTPError as error:
            raise ConnectionError from error

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(15)


def end_all(started: Started, number: int, whom: psutil.Process | None = None) -> None:
    """Assert that none of its processes runs a few seconds later."""
    everybody = started.everybody()
    assert len(everybody) >= 4
    (whom or started.process).send_signal(number)
    _, alive = psutil.wait_procs(everybody, timeout=30)  # on a busy machine
    try:
        left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not left, [(process.pid, process.status(), process.cmdline()) for process in left]
        started.process.wait(5)
    finally:
        for process in alive:
            process.kill()
        started.process.kill()
