"""What a start costs: seconds until the service is healthy, and seconds of the processor of each process by then.

    python -m bench.start

Valkey, API, worker and dispatcher with the toy model, in a new folder. The first run after a change of the code also
compiles it: the second run counts.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.report import machine, table
from tests.service import RunningService


def seconds_of(service: RunningService) -> Iterator[tuple[str, float]]:
    """Name, process and its seconds, ended children included, in the order of their start."""
    for name, started in service.processes.items():
        top = psutil.Process(started.pid)
        for process in [top, *top.children(recursive=True)]:
            yield f"{name}: {process.name()}", sum(process.cpu_times()[:4])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder)) as service:
        begun = time.monotonic()
        service.start("redis", "api", "worker", "dispatcher").wait_healthy()
        ready_s = time.monotonic() - begun
        rows = list(seconds_of(service))
    rows += [("all", sum(seconds for _, seconds in rows)), ("until ready, on the clock", ready_s)]
    print(machine(), table(["process", "seconds"], rows), sep="\n\n")


if __name__ == "__main__":
    main()
