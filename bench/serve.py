"""Servers for as long as a benchmark needs them: ours on a model folder, a peer by its command."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.service import ROOT, RunningService, free_port, is_template

READY_S = 300
DEPTHS = {"redis": 1, "api": 2, "worker": 1}


class Ours:
    """Our service, its processes, and how long it took to be ready."""

    def __init__(self, service: RunningService, model: str) -> None:
        self.service = service
        self.model = model
        self.start_s = 0.0

    @property
    def url(self) -> str:
        return f"{self.service.url}/v1"

    def process(self, name: str) -> psutil.Process:
        """The process that does the work: below its supervisor, and below gunicorn's own."""
        process = psutil.Process(self.service.processes[name].pid)
        for _ in range(DEPTHS[name]):
            process = [child for child in process.children() if not is_template(child)][0]
        return process

    def cpu_s(self, name: str) -> float:
        times = self.process(name).cpu_times()
        return float(times.user + times.system)


class TracedService(RunningService):
    """The same service with stopwatches in it; they write into its folder."""

    def spawn(self, name: str) -> "subprocess.Popen[bytes]":
        if name not in ("api", "worker"):
            return super().spawn(name)
        extra = ["--watch" if name == "worker" else "--listen"]
        command = [
            sys.executable,
            "-m",
            "common.process.supervise",
            name,
            *extra,
            "--",
            sys.executable,
            "-m",
            "bench.trace",
            name,
        ]
        env = self.env | {"BENCH_TRACE": str(self.folder / f"{name}.trace")}
        with self.log_path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )
        return self.processes[name]


def how_it_runs(ours: Ours) -> list[str]:
    """Lines of the worker's log that say by which runner it serves, what is recorded, and what went wrong."""
    lines = ours.service.log_path.read_text(errors="replace").splitlines()
    return [line for line in lines if any(word in line for word in ("Runner", "recorded", "WARNING", "ERROR"))]


@contextmanager
def our_service(model: Path, *, is_traced: bool = False, **settings: str) -> Iterator[Ours]:
    """The real service on free ports, its thread count the engine's own choice unless set."""
    chosen = {"OMNI_MODEL": str(model), "OMNI_MODEL_NAME": model.name, "OMNI_THREADS": "", "OMNI_MAX_QUEUE": "20000"}
    with tempfile.TemporaryDirectory(prefix="omni-bench-") as folder:
        kind = TracedService if is_traced else RunningService
        ours = Ours(kind(Path(folder), chosen | settings), model.name)
        started = time.perf_counter()
        try:
            ours.service.start("redis", "api", "worker")
            wait_ready(f"{ours.service.url}/health", ours.service.processes["worker"])
            ours.start_s = time.perf_counter() - started
            yield ours
        finally:
            ours.service.stop()


@contextmanager
def peer(command: str, model: Path, ready: str = "http://127.0.0.1:{port}/v1/models") -> Iterator[str]:
    """Another server, from a command with {port}, {model} (its name) and {folder}; its base URL.

    All that it started ends with it.
    """
    port = free_port()
    words = shlex.split(command.format(port=port, model=model.name, folder=model))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_ready(ready.format(port=port), process)
            yield f"http://127.0.0.1:{port}/v1"
        except (TimeoutError, ChildProcessError):
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            print(log.read().decode(errors="replace"))
            raise
        finally:
            end_group(process)


def end_on_sigterm() -> None:
    """Turn SIGTERM into an exit that also ends the processes started here."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def end_group(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the URL answers 200. Raises TimeoutError, or ChildProcessError when the process has ended."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        if process.poll() is not None:
            raise ChildProcessError(f"{process.args!r} ended with status {process.returncode}")
        time.sleep(0.05)
    raise TimeoutError(f"{url} was not ready in {READY_S} s")
