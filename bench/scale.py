"""Many at a time: `python -m bench.scale [--streams 100 500 1000 2000] [--queued 10000] [--real]`.

Streams: so many answers open at once, all running, one token a step each. Queued: so many jobs enqueued while no
worker is there, then drained by one. The engine is the weightless one of the tests, so that what is measured is the
service; --real takes the tiny model instead (256 at a time, the others wait in the queue). Order: a claim is out of
order when a job with a higher ticket was claimed in an earlier millisecond.
"""

import argparse
import asyncio
import random
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench import load, models
from bench.report import DEFAULT_FOLDER, load_average, machine, percentile, table, write_json
from bench.serve import end_on_sigterm
from tests.chaos.harness import KEYS, Harness, Options, running

MODEL = "tiny"
SAMPLE_S = 0.1
CALLERS = 32  # clients that enqueue jobs


class Peak(threading.Thread):
    """The most memory that a process had while this ran, MiB, and its processor time."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.before = self.peak = self.now()
        self.busy_s = 0.0
        self.cpu_before = self.cpu_s()
        self._is_over = threading.Event()

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def now(self) -> float:
        return float(self.process.memory_info().rss / 2**20)

    def run(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self.peak = max(self.peak, self.now())

    @property
    def grown(self) -> float:
        return self.peak - self.before

    def stop(self) -> None:
        self._is_over.set()
        self.join()
        self.busy_s = self.cpu_s() - self.cpu_before


def options(max_num_seqs: int, step_s: float, real: Path | None) -> Options:
    environment = {"OMNI_MODEL": str(real), "OMNI_THREADS": ""} if real is not None else {}
    return Options(
        max_num_seqs=max_num_seqs,
        max_queue=50_000,
        step_s=step_s,
        step_timeout=60.0,
        worker_module="worker.main" if real is not None else "tests.chaos.fake_worker",
        api_module="api.server",
        model=MODEL,
        through_proxy=False,
        environment=environment,
    )


@contextmanager
def watched(harness: Harness) -> Iterator[dict[str, Peak]]:
    """Memory of the API process and of the worker, if there is one."""
    peaks = {"api": Peak(harness.api_processes(2)[0])}
    if harness.workers:
        peaks["worker"] = Peak(harness.workers[0].worker())
    for peak in peaks.values():
        peak.start()
    try:
        yield peaks
    finally:
        for peak in peaks.values():
            peak.stop()


def claims_out_of_order(harness: Harness) -> tuple[int, int]:
    """(claimed jobs, and how many of them were claimed after a later one)."""
    pipeline = harness.redis.pipeline(transaction=False)
    for key in harness.redis.scan_iter("omni:job:*", count=1000):
        pipeline.hmget(key, "ticket", "first_claimed")
    jobs = sorted((int(ticket), int(claimed)) for ticket, claimed in pipeline.execute() if claimed)
    latest = num_wrong = 0
    for _, claimed in jobs:
        num_wrong += claimed < latest
        latest = max(latest, claimed)
    return len(jobs), num_wrong


def valkey_bytes(harness: Harness) -> int:
    return int(harness.redis.info("memory")["used_memory"])


async def burst(url: str, num_streams: int, num_tokens: int) -> list[load.Shot]:
    rnd = random.Random(num_streams)
    target = load.Target("ours", f"{url}/v1", MODEL, KEYS[0])
    fire = lambda: load.shoot(target, load.prompt(rnd, 20), num_tokens)  # noqa: E731
    return await load.closed_loop(fire, num_streams, num_streams)


def streams(num_streams: int, num_tokens: int, step_s: float, real: Path | None) -> tuple[Any, ...]:
    """One row: so many streams opened at once."""
    with running(options(256 if real is not None else num_streams, step_s, real)) as harness:
        asyncio.run(burst(harness.url, 8, 4))
        held = valkey_bytes(harness)
        with watched(harness) as peaks:
            started = time.perf_counter()
            shots = asyncio.run(burst(harness.url, num_streams, num_tokens))
            elapsed = time.perf_counter() - started
        held = valkey_bytes(harness) - held
        num_claimed, num_wrong = claims_out_of_order(harness)
        restarts = harness.crashes()
    good = [shot for shot in shots if not shot.error]
    first = [shot.ttft_s for shot in good]
    errors = {shot.error for shot in shots if shot.error}
    if errors:
        print(f"errors: {sorted(errors)[:3]}", flush=True)
    tokens = sum(shot.num_tokens for shot in good)
    return (
        num_streams, len(shots) - len(good), restarts, elapsed, tokens / elapsed, percentile(first, 0.5),
        percentile(first, 0.99), peaks["api"].busy_s * 1000 / num_streams, peaks["api"].before,
        peaks["api"].grown * 1024 / num_streams, peaks["worker"].grown * 1024 / num_streams,
        held / 1024 / num_streams, f"{num_wrong} of {num_claimed}", load_average(),
    )  # fmt: skip


STREAMS = (
    "streams", "errors", "worker restarts", "s", "tokens/s", "TTFT p50 s", "TTFT p99 s", "API CPU ms/stream",
    "API idle MiB", "API KiB/stream", "worker KiB/stream", "Valkey KiB/stream", "claims out of order", "load average",
)  # fmt: skip
QUEUED = (
    "queued", "refused", "accepted/s", "API grew MiB", "Valkey KiB/job", "look up one, p50 ms", "p99 ms",
    "drained/s", "unfinished", "claims out of order", "load average",
)  # fmt: skip


async def enqueue_many(url: str, num_jobs: int) -> tuple[list[str], float]:
    """Background jobs by CALLERS callers; returns ids (empty where refused) and seconds."""
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait"}], "max_tokens": 1, "background": True}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def put() -> str:
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                return str((await response.json())["id"]) if response.status == 202 else ""

        started = time.perf_counter()
        ids = await load.closed_loop(put, CALLERS, num_jobs)
        return ids, time.perf_counter() - started  # type: ignore[return-value]


async def look_up(url: str, ids: list[str]) -> list[float]:
    """Milliseconds to ask for one waiting job."""
    times = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEYS[0]}"}) as session:
        for job_id in ids:
            started = time.perf_counter()
            async with session.get(f"{url}/v1/chat/completions/{job_id}") as response:
                await response.read()
            times.append((time.perf_counter() - started) * 1000)
    return times


async def fill(url: str, num_jobs: int) -> tuple[list[str], float, list[float]]:
    """Ids, seconds until all were accepted, and milliseconds to look up some of them."""
    ids, elapsed = await enqueue_many(url, num_jobs)
    print(f"{num_jobs} jobs enqueued in {elapsed:.0f} s", flush=True)
    return ids, elapsed, await look_up(url, [job_id for job_id in ids if job_id][:: max(1, num_jobs // 200)])


def queued(num_jobs: int) -> tuple[Any, ...]:
    """One row: so many jobs enqueued without a worker, then drained by one."""
    with running(options(64, 0.001, None)) as harness:
        waiting = f"omni:waiting:{MODEL}"
        harness.workers.pop().end()
        before = valkey_bytes(harness)
        with watched(harness) as peaks:
            ids, elapsed, times = asyncio.run(fill(harness.url, num_jobs))
        held = valkey_bytes(harness) - before
        harness.start_worker()
        while int(harness.redis.zcard(waiting)) == num_jobs:
            time.sleep(0.05)
        started, left = time.perf_counter(), int(harness.redis.zcard(waiting))
        while harness.redis.zcard(waiting) and time.perf_counter() - started < 600:
            time.sleep(0.1)
        rate = left / (time.perf_counter() - started)
        time.sleep(0.5)
        accepted = [job_id for job_id in ids if job_id]
        states = harness.redis.pipeline(transaction=False)
        for job_id in accepted:
            states.hget(f"omni:job:{job_id}", "state")
        num_open = sum(state != b"finished" for state in states.execute())
        num_claimed, num_wrong = claims_out_of_order(harness)
    return (
        num_jobs, num_jobs - len(accepted), num_jobs / elapsed, peaks["api"].grown, held / 1024 / num_jobs,
        percentile(times, 0.5), percentile(times, 0.99), rate, num_open, f"{num_wrong} of {num_claimed}",
        load_average(),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[100, 500, 1000, 2000])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--step", type=float, default=0.5, help="seconds a step of the weightless engine takes")
    parser.add_argument("--queued", type=int, nargs="*", default=[10_000])
    parser.add_argument("--real", action="store_true", help="the tiny model instead of the weightless engine")
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "scale.json")
    args = parser.parse_args()
    end_on_sigterm()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.real:
        models.ensure(args.models, [MODEL])
    real = args.models / MODEL if args.real else None
    print(machine(), flush=True)
    rows = []
    for number in args.streams:
        rows.append(streams(number, args.tokens, args.step, real))
        print(table(STREAMS, rows[-1:]), flush=True)
    lines = [queued(number) for number in args.queued]
    print("\n" + table(STREAMS, rows) + "\n\n" + table(QUEUED, lines))
    write_json(args.out, {"streams": rows, "queued": lines})


if __name__ == "__main__":
    main()
