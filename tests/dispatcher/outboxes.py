"""An outbox as lib.lua writes it, and a consumer that is killed at each statement in turn.

python -m tests.dispatcher.outboxes REDIS_URL STORE_URL [apart]    drains the outbox over many deaths
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from redis import Redis
from sqlalchemy import event, select

from common.outbox.entries import EndedJob
from common.outbox.stream import Outbox, Position
from common.records.accounts.ledger import COUNTS
from common.records.database import Records
from common.records.position import move_position
from common.records.schema import ledger
from common.redis import keys
from common.redis.connection import connect
from dispatcher import outbox as consumer
from dispatcher.ledger import day_of
from dispatcher.outbox import OutboxConsumer

PAGE = 4
Account = tuple[str, str, str, str]


def end_jobs(redis: "Redis", number: int, seed: int = 1, ended_ms: int = 1_790_000_000_000) -> list[dict[str, Any]]:
    """Add the ends of jobs of three owners and two models, over two days."""
    random, jobs = Random(seed), []
    for index in range(number):
        job = {
            "id": f"job-{seed}-{index}",
            "owner": random.choice("abc"),
            "model": random.choice(("m", "n")),
            "tier": random.choice(("default", "flex")),
            "state": random.choice(("finished", "finished", "failed", "cancelled")),
            "kind": "chat",
            "background": 0,
            "archive": 0,
            "ended": ended_ms + index * 7_200_000,
            "num_prompt": random.randrange(1000),
            "cached": random.randrange(10),
            "tokens": random.randrange(1000),
            "gpu_us": random.randrange(10**7),
        }
        if random.random() < 0.8:
            job["first_row"] = ended_ms
        redis.xadd(keys.OUTBOX, job)
        jobs.append(job)
    return jobs


def sums(jobs: Sequence[dict[str, Any]]) -> dict[Account, tuple[int, ...]]:
    """What the ledger must hold."""
    found: dict[Account, list[int]] = {}
    for job in jobs:
        counts = found.setdefault((job["owner"], job["model"], day_of(job["ended"] / 1000), job["tier"]), [0] * 7)
        prompt = job["num_prompt"] if "first_row" in job else 0
        ends = (1, job["state"] == "failed", job["state"] == "cancelled")
        for at, value in enumerate((*ends, prompt, job["cached"], job["tokens"], job["gpu_us"])):
            counts[at] += value
    return {account: tuple(counts) for account, counts in found.items()}


def ledger_of(records: Records) -> dict[Account, tuple[int, ...]]:
    names = ("owner", "model", "day", "tier")
    with records.read() as connection:
        rows = connection.execute(select(ledger)).mappings().all()
    return {tuple(row[name] for name in names): tuple(row[name] for name in COUNTS) for row in rows}  # type: ignore[misc]


def no_check(_: Any) -> None:
    """There is one consumer."""


class PositionApart(OutboxConsumer):
    """The control: the position is saved in a transaction of its own, after the one that applies."""

    def _apply(self, stored: str, after: Position, jobs: Sequence[EndedJob]) -> bool:
        with self._records.begin() as connection:
            for apply in self._appliers:
                apply(connection, jobs)
        with self._records.begin() as connection:
            return move_position(connection, stored, str(after))


class Death:
    """Kills this process at the n-th place that it comes by."""

    def __init__(self, place: int) -> None:
        self.left = place

    def come_by(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.come_by()
            result = real(*args, **kwargs)
            self.come_by()
            return result

        return wrapped

    def lurk(self, records: Records, outbox: Outbox) -> None:
        """Before and after each statement, each commit, and each command of Redis."""
        engine = records.engine()
        event.listen(engine, "before_cursor_execute", self.come_by)
        event.listen(engine, "after_cursor_execute", self.come_by)
        commit = engine.dialect.do_commit
        engine.dialect.do_commit = self.around(commit)  # type: ignore[method-assign]
        for name in ("read", "trim"):
            setattr(outbox, name, self.around(getattr(outbox, name)))


def drain(redis_url: str, store_url: str, place: int, kind: type[OutboxConsumer]) -> None:
    """Apply everything, or die at this place."""
    redis, records = connect(redis_url), Records(store_url)
    outbox = Outbox(redis)
    Death(place).lurk(records, outbox)
    task = kind(outbox, records, no_check)
    task._page = PAGE
    while task.apply_page() is None:
        task._page = PAGE


def drain_over_deaths(redis_url: str, store_url: str, kind: type[OutboxConsumer]) -> int:
    """A process per place, each forked from this one; returns how many died."""
    for place in range(1, 1000):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                drain(redis_url, store_url, place, kind)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"the consumer failed at place {place}")
            return place - 1
    raise RuntimeError("the outbox is not drained")


if __name__ == "__main__":
    consumer.PAGE = PAGE
    print(drain_over_deaths(sys.argv[1], sys.argv[2], PositionApart if "apart" in sys.argv else OutboxConsumer))
