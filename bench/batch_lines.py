"""Lines per second of a batch on a weightless engine, and what each process takes of it: `python -m bench.batch_lines`.

The engine generates one token a step for every line, in no time beyond the pause between steps, so what is measured is
the way of a line: dispatcher, API, queue, worker, store.
"""

import argparse
import time
from collections.abc import Iterator

import psutil

from bench.report import machine, table
from tests.chaos.harness import Options
from tests.dispatcher.batch_service import BatchService, chat_line, running_batches


def processes(service: BatchService) -> Iterator[tuple[str, psutil.Process]]:
    assert service.harness.valkey is not None
    yield "dispatcher", service.dispatcher()
    for process in service.harness.api_processes(2):
        yield "API", process
    yield "worker", service.harness.workers[0].worker()
    yield "Valkey", psutil.Process(service.harness.valkey.popen.pid)


def cpu_s(service: BatchService) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, process in processes(service):
        times = process.cpu_times()
        sums[name] = sums.get(name, 0.0) + times.user + times.system
    return sums


def measure(num_lines: int, num_tokens: int, num_seqs: int, num_apis: int) -> tuple[object, ...]:
    options = Options(through_proxy=False, max_num_seqs=num_seqs, num_apis=num_apis)
    with running_batches(options) as service:
        service.ended(service.add([chat_line(number, tokens=num_tokens) for number in range(1, 101)]))  # warm up
        before, began = cpu_s(service), time.monotonic()
        row = service.ended(
            service.add([chat_line(number, tokens=num_tokens) for number in range(1, num_lines + 1)]), 600
        )
        elapsed_s = time.monotonic() - began
        after = cpu_s(service)
        assert row.num_succeeded == num_lines
    per_line = [round((after[name] - before[name]) * 1e6 / num_lines) for name in before]
    return num_apis, num_lines, round(num_lines / elapsed_s, 1), *per_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--num-seqs", type=int, default=64)
    parser.add_argument("--apis", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    print(machine())
    rows = [measure(args.lines, args.tokens, args.num_seqs, apis) for apis in args.apis]
    names = [f"{name}, CPU us/line" for name in ("dispatcher", "API", "worker", "Valkey")]
    print(table(["API processes", "lines", "lines/s", *names], rows))


if __name__ == "__main__":
    main()
