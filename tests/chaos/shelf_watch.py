"""Watches the shelf from Redis during a run: what is loaded when, and how long a model waits for its turn."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from common.redis import keys

EVERY_S = 0.05
FLEX_CLASS = 900  # from this class on jobs wait for all others


@dataclass
class Wait:
    """A model for which work waited while none of it was done."""

    model: str
    seconds: float
    until: float
    is_flex: bool
    down_s: float  # of these, without a worker that could have done anything


@dataclass
class Watch:
    """Call `start()`, and `stop()` at the end. Times are time.monotonic()."""

    redis: "Redis"
    queues: Sequence[str]
    loaded: list[tuple[float, frozenset[str]]] = field(default_factory=list)  # from when on
    waits: list[Wait] = field(default_factory=list)
    reports: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    down_s: float = 0.0  # without any worker
    _looked: float = 0.0
    _since: dict[tuple[str, bool], tuple[float, float]] = field(default_factory=dict)  # when, and down_s then
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> "Watch":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> "Watch":
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        now = time.monotonic()
        for queue in self.queues:
            for is_flex in (False, True):
                self._note(queue, is_flex, False, now)
        return self

    @property
    def num_swaps(self) -> int:
        """How often a model became loaded while another one left, or that was not there before the watch began."""
        return sum(len(after - before) for (_, before), (_, after) in zip(self.loaded, self.loaded[1:], strict=False))

    def longest_wait_s(self, *, flex: bool = False) -> float:
        """While there was a worker."""
        return max((wait.seconds - wait.down_s for wait in self.waits if wait.is_flex == flex), default=0.0)

    def _run(self) -> None:
        while not self._end.wait(EVERY_S):
            with suppress(RedisError):
                self._look(time.monotonic())

    def _look(self, now: float) -> None:
        reports = [json.loads(report) for report in self.redis.hvals(keys.SHELF)]
        if reports:
            self.last = max(reports, key=lambda report: report["at"])
            self.reports += 1
            loaded = frozenset(entry["queue"] for entry in self.last["entries"] if entry["status"] == "loaded")
            # a successor reports what is kept before it has opened it again: that is no swap
            if not self.loaded or (loaded and loaded != self.loaded[-1][1]):
                self.loaded.append((now, loaded))
        if self._looked and not any(self.redis.exists(key) for key in map(worker_key, self.redis.hkeys(keys.FENCES))):
            self.down_s += now - self._looked
        self._looked = now
        running: dict[str, int] = dict.fromkeys(self.queues, 0)
        for fence, queue in self.redis.hgetall(keys.FENCES).items():
            if queue.decode() in running:
                running[queue.decode()] += self.redis.zcard(keys.RUNNING + fence.decode())
        for queue in self.queues:
            backlog = self.redis.hgetall(keys.BACKLOG + queue)
            jobs = {int(float(name.split(b":")[0])): int(n) for name, n in backlog.items() if name.endswith(b":jobs")}
            urgent = sum(n for number, n in jobs.items() if number < FLEX_CLASS)
            self._note(queue, False, urgent > 0 and not running[queue], now)
            self._note(queue, True, sum(jobs.values()) > 0 and not urgent and not running[queue], now)

    def _note(self, queue: str, is_flex: bool, waits: bool, now: float) -> None:
        since = self._since.get((queue, is_flex))
        if waits and since is None:
            self._since[queue, is_flex] = (now, self.down_s)
        elif not waits and since is not None:
            del self._since[queue, is_flex]
            self.waits.append(Wait(queue, now - since[0], now, is_flex, self.down_s - since[1]))


def worker_key(fence: bytes) -> str:
    return keys.WORKER + fence.decode()
