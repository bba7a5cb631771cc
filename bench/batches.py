"""A batch through OpenAI's client while every process of the service is killed, and what is left of its promises.

    python -m bench.batches                      # 50,000 lines on the weightless engine, all killed thrice, Redis once
    python -m bench.batches --demo --lines 2000  # on the demo model in float32; texts compared with an undisturbed run

Prints lines per second, the kills, and every promise that was broken: each custom_id once, counts that are true, one
job per line, the texts. The exit status is 1 if one was.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import orjson
import psutil

from bench.report import machine
from tests.chaos.fake_worker import expected_text
from tests.chaos.harness import KEYS, Options
from tests.dispatcher.batch_service import CHAT, running_batches
from tests.service import RunningService

ROUNDS = 3
ENDED = ("completed", "failed", "expired", "cancelled")
SUBJECTS = ("river", "fox", "lamp", "garden", "ship", "mill", "clock", "bridge", "baker", "owl")


@dataclass(frozen=True, slots=True)
class Victim:
    name: str
    kill: Callable[[], None]


def num_tokens(number: int) -> int:
    return number % 4 + 2


def weightless_line(number: int) -> bytes:
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "seed": number}
    return line(number, body | {"max_tokens": num_tokens(number)})


def demo_line(number: int) -> bytes:
    text = f"Tell me a story about a {SUBJECTS[number % len(SUBJECTS)]} and the number {number}."
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": text}], "max_tokens": 16 + number % 17}
    return line(number, body | {"temperature": 0.7, "seed": number})


def line(number: int, body: dict[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}) + b"\n"


class Run:
    """One batch of a client that tries again, as a person's script does, while the API is away."""

    def __init__(self, url: str, key: str, lines: Sequence[bytes]) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=20, timeout=60)
        self.num_lines = len(lines)
        uploaded = self.client.files.create(file=("lines.jsonl", b"".join(lines)), purpose="batch")
        self.batch = self.client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        self.false_counts = 0
        self.num_done = 0

    def follow(self) -> float:
        """Wait for the end; returns the seconds that it took. Counts that go back or exceed the total are noted."""
        began = time.monotonic()
        while self.batch.status not in ENDED:
            time.sleep(0.5)
            self.batch = self.client.batches.retrieve(self.batch.id)
            counts = self.batch.request_counts
            done = counts.completed + counts.failed if counts else 0
            is_true = self.num_done <= done <= self.num_lines and (not counts or counts.total in (0, self.num_lines))
            self.false_counts += not is_true
            self.num_done = done
        return time.monotonic() - began

    def results(self) -> list[dict[str, Any]]:
        names = [name for name in (self.batch.output_file_id, self.batch.error_file_id) if name]
        contents = (self.client.files.content(name).read() for name in names)
        return [orjson.loads(text) for content in contents for text in content.splitlines()]


def broken(run: Run, results: list[dict[str, Any]]) -> list[str]:
    """The promises that the batch broke."""
    wrong = []
    ids = [result["custom_id"] for result in results]
    if sorted(ids) != sorted(f"line-{number}" for number in range(run.num_lines)):
        wrong.append(f"{len(set(ids))} different custom_ids in {len(ids)} results")
    counts = run.batch.request_counts
    if counts is None or (counts.total, counts.completed, counts.failed) != (run.num_lines, run.num_lines, 0):
        wrong.append(f"counts at the end: {counts}")
    if run.false_counts:
        wrong.append(f"{run.false_counts} counts on the way were false")
    if run.batch.status != "completed":
        wrong.append(f"status {run.batch.status}: {run.batch.errors}")
    return wrong


def text_of(result: dict[str, Any]) -> str:
    return str(result["response"]["body"]["choices"][0]["message"]["content"])


def killing(run: Run, victims: Sequence[Victim], is_over: threading.Event) -> list[str]:
    """Kill the victims one after the other, evenly over the lines. Returns what was done, when."""
    done: list[str] = []
    for number, victim in enumerate(victims, 1):
        share = number / (len(victims) + 1) * run.num_lines
        while run.num_done < share and not is_over.wait(0.05):
            pass
        if is_over.is_set():
            break
        with_retry(victim.kill)
        done.append(f"{victim.name} at {run.num_done}")
    return done


def with_retry(kill: Callable[[], None]) -> None:
    """A process that is just being replaced is killed when it is there again."""
    for _ in range(100):
        try:
            return kill()
        except (psutil.Error, IndexError):
            time.sleep(0.1)


def disturbed(run: Run, victims: Sequence[Victim]) -> tuple[float, list[str]]:
    """Follow the batch with kills beside it; returns its seconds and the kills."""
    is_over, kills = threading.Event(), list[str]()
    killer = threading.Thread(target=lambda: kills.extend(killing(run, victims, is_over)))
    killer.start()
    try:
        return run.follow(), kills
    finally:
        is_over.set()
        killer.join()


def weightless(num_lines: int, rounds: int) -> list[str]:
    with running_batches(Options(through_proxy=False, max_num_seqs=200)) as service:
        harness = service.harness

        def restart_valkey() -> None:
            harness.kill_valkey()
            harness.start_valkey()

        processes = [
            Victim("dispatcher", lambda: service.dispatcher().kill()),
            Victim("api", lambda: harness.api_processes(2)[0].kill()),
            Victim("worker", lambda: harness.workers[0].worker().kill()),
        ]
        victims = [*processes * (rounds // 2), Victim("redis", restart_valkey), *processes * (rounds - rounds // 2)]
        run = Run(harness.url, KEYS[0], [weightless_line(number) for number in range(num_lines)])
        seconds, kills = disturbed(run, victims if rounds else ())
        report(num_lines, seconds, kills)
        results = run.results()
        wrong = broken(run, results)
        wrong += [
            f"text of {result['custom_id']}"
            for result in results
            if text_of(result) != expected_text(number := int(result["custom_id"][5:]), num_tokens(number))
        ]
        if (num_jobs := service.num_jobs_ended()) != num_lines:
            wrong.append(f"{num_jobs} jobs for {num_lines} lines")
        if kills and len(kills) != len(victims):
            wrong.append(f"only {len(kills)} of {len(victims)} kills happened")
        return wrong


def demo(num_lines: int, rounds: int) -> list[str]:
    lines = [demo_line(number) for number in range(num_lines)]
    with demo_service() as service:
        undisturbed = Run(service.url, service.key, lines)
        report(num_lines, undisturbed.follow(), [])
        expected = {result["custom_id"]: text_of(result) for result in undisturbed.results()}
        processes = [
            Victim("dispatcher", lambda: kill_child(service, "dispatcher")),
            Victim("api", lambda: kill_child(service, "api")),
            Victim("worker", lambda: service.worker().kill()),
        ]
        valkey = Victim("redis", lambda: kill_child(service, "redis"))
        run = Run(service.url, service.key, lines)
        seconds, kills = disturbed(run, [*processes, valkey, *processes * (rounds - 1)] if rounds else ())
        report(num_lines, seconds, kills)
        results = run.results()
        return broken(run, results) + [
            f"text of {result['custom_id']}" for result in results if text_of(result) != expected[result["custom_id"]]
        ]


def kill_child(service: RunningService, name: str) -> None:
    psutil.Process(service.processes[name].pid).children()[0].send_signal(signal.SIGKILL)


@contextmanager
def demo_service() -> Iterator[RunningService]:
    settings = {"OMNI_DTYPE": "float32"}
    with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder), settings) as service:
        service.start("redis", "api", "worker", "dispatcher")
        service.wait_healthy()
        yield service


def report(num_lines: int, seconds: float, kills: Sequence[str]) -> None:
    print(f"{num_lines} lines in {seconds:.1f} s: {num_lines / seconds:.0f} lines/s", flush=True)
    if kills:
        print(f"killed, with the lines done by then: {', '.join(kills)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="the demo model instead of the weightless engine")
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="kills of each process; 0: none")
    args = parser.parse_args()
    print(machine())
    wrong = (demo if args.demo else weightless)(args.lines, args.rounds)
    print(
        "\n".join(wrong[:20]) or "every promise was kept: each custom_id once, counts true, one job a line, the texts"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
