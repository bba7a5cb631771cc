"""Many open streams of which some decode, and a long queue, without faults. Reports their memory.

The first streams are long, so that all are open while the queue fills; then everything is drained and checked.
"""

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Iterable

import psutil

from tests.chaos.checker import check
from tests.chaos.client import BROKEN, Api, Client, History, chat
from tests.chaos.harness import Harness, Options, running

ACTIVE = 64
STEP_S = 0.05
AT_ONCE = 100
OPENING_PER_S = 140  # streams and jobs that this machine takes in a second, at least
GRACE_S = 900


def kind_of(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "common.process.supervise" in words:
        return "supervisor"
    return "arbiter" if process.children() else "server"


def api_memory(harness: Harness) -> str:
    """Resident (RSS) and proportional (PSS: what several share is divided among them) megabytes of each API process."""
    tree = [psutil.Process(api.popen.pid) for api in harness.apis]
    tree += [child for root in tree for child in root.children(recursive=True)]
    parts, totals = [], Counter[str]()
    for process in tree:
        info = process.memory_full_info()
        totals["RSS"] += info.rss
        totals["PSS"] += info.pss
        parts.append(f"{kind_of(process)} {info.rss / 2**20:.0f}/{info.pss / 2**20:.0f}")
    both = ", ".join(f"{name} {size / 2**20:.0f} MB" for name, size in totals.items())
    return f"API {both} ({', '.join(parts)})"


def num_running(harness: Harness) -> int:
    return sum(harness.redis.zcard(key) for key in harness.redis.scan_iter("omni:running:*"))


def num_waiting(harness: Harness) -> int:
    return int(harness.redis.zcard(f"omni:waiting:{harness.queue}"))


def show(harness: Harness, what: str) -> None:
    running, queued = num_running(harness), num_waiting(harness)
    worker = sum(one.worker().memory_info().rss for one in harness.workers)
    valkey = harness.redis.info("memory")["used_memory_rss"]
    streams, load = harness.hub_readers(), os.getloadavg()[0]
    print(f"{what}: {streams} streams open, {running} jobs run, {queued} wait; load average {load:.1f}")
    print(f"  {api_memory(harness)}; worker {worker / 2**20:.0f} MB, Valkey {valkey / 2**20:.0f} MB", flush=True)


async def in_turns(work: Iterable[Awaitable[object]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[object]) -> None:
        async with gate:
            await item

    await asyncio.gather(*(one(item) for item in work))


async def open_streams(harness: Harness, api: Api, num_streams: int, hold_s: float) -> list[asyncio.Task[History]]:
    """Open all streams at once; returns when the last one is open."""

    async def read(number: int) -> History:
        num_tokens = int(hold_s / STEP_S) if number < ACTIVE else 40
        client = Client(api, History(number, num_tokens, "stream"))
        await client.stream(background=True)
        return client.history

    reading = [asyncio.create_task(read(number)) for number in range(min(num_streams, ACTIVE))]
    while num_running(harness) < len(reading):
        await asyncio.sleep(0.1)  # the long ones first
    reading += [asyncio.create_task(read(number)) for number in range(len(reading), num_streams)]
    while num_running(harness) + num_waiting(harness) < num_streams:
        await asyncio.sleep(0.2)
    return reading


async def enqueue_many(api: Api, num_queued: int) -> list[History]:
    async def put(number: int) -> History:
        history = History(10**6 + number, 5, "queued")
        body = chat(history.seed, history.num_tokens, background=True)
        body["messages"][0]["content"] = "x" * 500
        try:
            status, answer = await api.ask("POST", "/v1/chat/completions", body)
            history.id = answer.get("id", "")
            history.complaints += [] if status == 202 else [f"POST answered {status}"]
        except BROKEN as error:
            history.complaints.append(f"POST failed: {error!r}")
        return history

    histories: list[History] = []

    async def keep(number: int) -> None:
        histories.append(await put(number))

    await in_turns(keep(number) for number in range(num_queued))
    return histories


async def drive(harness: Harness, num_streams: int, num_queued: int) -> list[History]:
    api = Api(harness.port)
    show(harness, "idle")
    began = time.monotonic()
    hold_s = 20 + (num_streams + num_queued) / OPENING_PER_S
    reading = await open_streams(harness, api, num_streams, hold_s)
    show(harness, f"after {time.monotonic() - began:.0f} s")
    asked = time.monotonic()
    queued = await enqueue_many(api, num_queued)
    show(harness, f"{num_queued} more accepted in {time.monotonic() - asked:.0f} s")
    streams = list(await asyncio.gather(*reading))
    show(harness, f"all streams ended after {time.monotonic() - began:.0f} s")
    while num_waiting(harness) + num_running(harness) and time.monotonic() - began < GRACE_S:
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.0)
    show(harness, f"the queue is empty after {time.monotonic() - began:.0f} s")
    return streams + queued


def crowd(num_streams: int, num_queued: int) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    most = num_streams + num_queued + 1000
    options = Options(num_apis=2, max_num_seqs=ACTIVE, step_s=STEP_S, max_queue=most, through_proxy=False)
    with running(options) as harness:
        histories = asyncio.run(drive(harness, num_streams, num_queued))
        report = check(histories, harness.redis, harness.queue)
    print(report)
    return 0 if report.is_clean else 1
