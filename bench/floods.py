"""Memory of an API process after floods of large requests: `python -m bench.floods [--floods 10]`.

Each flood is twelve texts of 8 MB for /tokenize at the same time. The table says the process' memory (RSS) at its most
and once it has been left alone for a moment.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil

from bench.large_bodies import LARGEST, Body, Largest, of_texts
from bench.report import machine, table
from bench.standstill import sent, wide_service

PARALLEL = 12
LEFT_ALONE_S = 3.0


def body() -> Body:
    [found] = [body for body in of_texts(Largest(LARGEST)) if body.name == "/tokenize: words"]
    return found


def mib(process: psutil.Process) -> int:
    return int(process.memory_info().rss) >> 20


def floods(num_floods: int, parallel: int = PARALLEL) -> Iterator[tuple[int, int]]:
    """MiB at the most and afterwards; the first pair is before any flood."""
    with wide_service() as harness, ThreadPoolExecutor(parallel) as callers:
        [process] = harness.api_processes(2)
        large = body()
        yield mib(process), mib(process)
        for _ in range(num_floods):
            answers = [callers.submit(sent, harness.port, large) for _ in range(parallel)]
            most = 0
            while not all(answer.done() for answer in answers):
                most = max(most, mib(process))
                time.sleep(0.01)
            time.sleep(LEFT_ALONE_S)
            yield most, mib(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floods", type=int, default=10)
    args = parser.parse_args()
    print(machine())
    print(table(("flood", "most MiB", "left MiB"), [(n, *found) for n, found in enumerate(floods(args.floods))]))


if __name__ == "__main__":
    main()
