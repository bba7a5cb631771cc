"""Faults: each changes a running harness and undoes the change. A seed decides their order and times."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.harness import Harness, wait_until

Fault = Callable[["Injector"], Awaitable[None]]


class Injector:
    """Owns the faults of one run."""

    def __init__(self, harness: Harness, seed: int, pause_s: float = 1.0) -> None:
        self.harness = harness
        self.random = random.Random(seed)
        self.pause_s = pause_s
        self.counts: Counter[str] = Counter()
        self.is_stopping = False
        self.now = ""  # the last one begun
        self.done: list[tuple[float, float, str]] = []  # from, until, what
        self.wrong: list[str] = []  # what no client could see

    async def run(self, seconds: float, faults: dict[str, Fault], most: int = 10**9) -> None:
        """Faults from a shuffled deck, one after another, so that every kind comes equally often."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        deck: list[str] = []
        while loop.time() < end and not self.is_stopping and self.counts.total() < most:
            if not deck:
                deck = self.random.sample(sorted(faults), len(faults))
            self.now = name = deck.pop()
            with suppress(psutil.Error, IndexError, ProcessLookupError):
                began = loop.time()
                await faults[name](self)
                self.counts[name] += 1
                self.done.append((began, loop.time(), name))
            await asyncio.sleep(self.random.uniform(0.3, 1.7) * self.pause_s)

    def worker(self) -> psutil.Process:
        return self.random.choice(self.harness.workers).worker()

    def api(self, depth: int) -> psutil.Process:
        """depth 1: gunicorn's arbiter, 2: its worker."""
        return self.random.choice(self.harness.api_processes(depth))

    async def hold(self, least: float = 0.1, most: float = 1.0) -> None:
        await asyncio.sleep(self.random.uniform(least, most))


async def kill_worker(injector: Injector) -> None:
    injector.worker().kill()


async def stop_worker(injector: Injector) -> None:
    """A deploy: SIGTERM."""
    injector.worker().terminate()


async def pause_worker(injector: Injector) -> None:
    """A zombie: it sleeps past its lease, others take its jobs over, and it tries to write when it wakes."""
    worker = injector.worker()
    worker.suspend()
    await asyncio.sleep(4.5)
    with suppress(psutil.Error):
        worker.resume()


async def kill_api(injector: Injector) -> None:
    injector.api(injector.random.choice([1, 2])).kill()


async def stop_api(injector: Injector) -> None:
    injector.api(1).terminate()


async def kill_valkey(injector: Injector) -> None:
    injector.harness.kill_valkey()
    await injector.hold(0.0, 0.5)
    await asyncio.to_thread(injector.harness.start_valkey)


async def pause_valkey(injector: Injector) -> None:
    assert injector.harness.valkey is not None
    injector.harness.valkey.send(signal.SIGSTOP)
    await injector.hold()
    injector.harness.valkey.send(signal.SIGCONT)


async def start_again(injector: Injector) -> None:
    """A second start of the service in the same folder."""
    if wrong := await asyncio.to_thread(injector.harness.start_again):
        injector.wrong.append(wrong)


async def forget_scripts(injector: Injector) -> None:
    injector.harness.redis.script_flush()


async def kill_subscribers(injector: Injector) -> None:
    injector.harness.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def fill_memory(injector: Injector) -> None:
    redis: Redis = injector.harness.redis
    redis.config_set("maxmemory", 1)
    await injector.hold()
    redis.config_set("maxmemory", 0)


async def cut_links(injector: Injector) -> None:
    injector.harness.link(injector.random.choice(["api", "worker"]), "cut")


async def tear_links(injector: Injector) -> None:
    """Cut links in the middle of a reply: the command has run, and its sender does not know."""
    link = injector.random.choice(["api", "worker"])
    for _ in range(3):
        injector.harness.link(link, "tear", injector.random.choice([0, 0, 1, 5, 40]))
        await asyncio.sleep(0.15)
    injector.harness.link(link, "clear")


async def delay_links(injector: Injector) -> None:
    link = injector.random.choice(["api", "worker"])
    injector.harness.link(link, "delay", injector.random.uniform(0.01, 0.2))
    await injector.hold()
    injector.harness.link(link, "clear")


async def stall_links(injector: Injector) -> None:
    """Half-open links: the connections stay, and no byte passes."""
    link = injector.random.choice(["api", "worker"])
    injector.harness.link(link, "stall", 1)
    await injector.hold(0.5, 2.0)
    injector.harness.link(link, "clear")


async def trickle_links(injector: Injector) -> None:
    link = injector.random.choice(["api", "worker"])
    injector.harness.link(link, "trickle", 1)
    await injector.hold()
    injector.harness.link(link, "clear")


def take_all_room(path: Path) -> None:
    with suppress(OSError), path.open("wb") as file:
        for at in range(0, 1 << 40, 1 << 20):
            os.posix_fallocate(file.fileno(), at, 1 << 20)


async def fill_disk(injector: Injector) -> None:
    """A file takes all that is left of the data's file system; only on a small one of its own."""
    folder = injector.harness.data_dir
    ballast = Path(folder) / "ballast"
    await asyncio.to_thread(take_all_room, ballast)
    await injector.hold(0.5, 1.5)
    ballast.unlink()


async def jump_clocks(injector: Injector) -> None:
    """All wall clocks but Valkey's jump by up to a day; only where the processes run under clock.c."""
    path = (Path(injector.harness.folder) / "clock").resolve()
    offset = injector.random.choice([-86400, -3600, -30, 30, 3600, 86400])
    path.with_suffix(".new").write_text(str(offset))
    path.with_suffix(".new").replace(path)


FAULTS: dict[str, Fault] = {
    function.__name__: function
    for function in (
        kill_worker,
        stop_worker,
        pause_worker,
        kill_api,
        stop_api,
        kill_valkey,
        pause_valkey,
        start_again,
        forget_scripts,
        kill_subscribers,
        fill_memory,
        cut_links,
        tear_links,
        delay_links,
        stall_links,
        trickle_links,
    )
}


def undo(harness: Harness) -> None:
    """Undo every fault that still lasts."""
    assert harness.valkey is not None
    for worker in harness.workers:
        for process in worker.descendants():
            with suppress(psutil.Error):
                process.resume()
    with suppress(RedisError):
        harness.redis.config_set("maxmemory", 0)
    for link in ("api", "worker"):
        harness.link(link, "clear")
    wait_until(harness.is_ready, 150, "the service after the faults")
