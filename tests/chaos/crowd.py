"""No faults, only many: open streams, and jobs that wait. Says what they cost in memory."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Iterable

import psutil

from tests.chaos.client import BROKEN, Api, Client, History, chat
from tests.chaos.harness import Harness, Options, running

ACTIVE = 64
AT_ONCE = 100


def resident_mb(harness: Harness) -> dict[str, float]:
    groups = {"api": harness.apis, "worker": harness.workers, "valkey": [harness.valkey]}
    found = {}
    for name, members in groups.items():
        processes = [
            psutil.Process(pid)
            for member in members
            if member is not None
            for pid in (member.popen.pid, *(child.pid for child in member.descendants()))
        ]
        serving = [process for process in processes if "common.supervise" not in " ".join(process.cmdline())]
        found[name] = sum(process.memory_info().rss for process in serving) / 2**20
        if name == "api":
            found["api (proportional)"] = sum(process.memory_full_info().pss for process in serving) / 2**20
    return found


def show(harness: Harness, what: str) -> None:
    print(f"{what}: " + ", ".join(f"{name} {size:.0f} MB" for name, size in resident_mb(harness).items()), flush=True)


async def in_turns(work: Iterable[Awaitable[object]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[object]) -> None:
        async with gate:
            await item

    await asyncio.gather(*(one(item) for item in work))


async def drive(harness: Harness, num_streams: int, num_queued: int) -> int:
    api = Api(harness.port)
    show(harness, "idle")
    clients = [Client(api, History(number, 40, "stream")) for number in range(num_streams)]
    began = time.monotonic()
    streams = [asyncio.create_task(client.stream(background=True)) for client in clients]
    waiting = f"omni:waiting:{harness.queue}"
    while harness.hub_readers() < num_streams and not all(task.done() for task in streams):
        if time.monotonic() - began > 90:
            break
        await asyncio.sleep(0.2)
    show(harness, f"{harness.hub_readers()} readers open, {harness.redis.zcard(waiting)} in the line")

    async def queue(number: int) -> None:
        body = chat(10**6 + number, 5, background=True)
        body["messages"][0]["content"] = "x" * 500
        for _ in range(20):
            try:
                if (await api.ask("POST", "/v1/chat/completions", body))[0] == 202:
                    return
            except BROKEN:
                await asyncio.sleep(0.2)

    asked = time.monotonic()
    await in_turns(queue(number) for number in range(num_queued))
    seconds = time.monotonic() - asked
    show(harness, f"{num_queued} more jobs accepted in {seconds:.0f} s, {harness.redis.zcard(waiting)} in the line")
    await asyncio.gather(*streams)
    wrong = [
        client.history.error or "incomplete"
        for client in clients
        if client.history.error or len(client.history.frames) < 40
    ]
    print(f"{num_streams} streams ended in {time.monotonic() - began:.0f} s, {len(wrong)} wrong {wrong[:3]}")
    show(harness, "at the end")
    return 1 if wrong else 0


def crowd(num_streams: int, num_queued: int) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    options = Options(
        num_apis=2, max_num_seqs=ACTIVE, step_s=0.05, max_queue=num_streams + num_queued + 1000, through_proxy=False
    )
    with running(options) as harness:
        return asyncio.run(drive(harness, num_streams, num_queued))
