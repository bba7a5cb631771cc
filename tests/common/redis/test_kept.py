"""The counted memory of each key equals the stored memory, whatever happens to jobs, workers and Redis."""

from random import Random

import pytest
from redis import Redis

from tests.chaos.memory_scenarios import assert_counted, kept, submit
from tests.chaos.scenarios import QUEUE, Stage, finish, turn
from worker.jobs.served_model import ServedModel

OWNERS = ("a", "b", "c")


class Walk:
    """Random events, with a check of the counts after each."""

    def __init__(self, redis: "Redis", seed: int) -> None:
        self.random = Random(seed)
        self.stage = Stage(redis)
        self.worker: ServedModel = self.stage.worker()
        self.jobs: dict[str, str] = {}  # id to owner

    def submit(self) -> None:
        owner = self.random.choice(OWNERS)
        self.jobs[submit(self.stage, owner, self.random.randrange(5000))] = owner

    def work(self) -> None:
        turn(self.worker, self.random.randrange(1, 6))

    def crash(self) -> None:
        self.stage.bury(self.worker)
        self.worker = self.stage.worker()
        self.worker.ledger.reclaim()

    def cancel(self) -> None:
        if self.jobs:
            self.stage.store.cancel(self.random.choice(list(self.jobs)))

    def ended(self) -> list[str]:
        return [job_id for job_id in self.jobs if self.stage.field(job_id, "ended")]

    def forget(self) -> None:
        if ended := self.ended():
            job_id = self.random.choice(ended)
            assert self.stage.store.forget(job_id)
            del self.jobs[job_id]

    def expire(self) -> None:
        """Delete expired keys as Redis does, without a script."""
        for job_id in self.ended()[:2]:
            owner = self.jobs.pop(job_id)
            self.stage.redis.delete(f"omni:job:{job_id}", f"omni:log:{job_id}", f"rq:job:{job_id}")
            self.stage.redis.zadd(f"omni:jobs:{owner}", {job_id: 1})

    def flush(self) -> None:
        self.stage.redis.flushall()
        self.jobs.clear()
        self.worker = self.stage.worker()

    def check(self) -> None:
        for owner in OWNERS:
            counted = kept(self.stage, owner)
            assert counted.pop("total", 0) == sum(counted.values())
            assert all(number > 0 for number in counted.values())
            assert counted.keys() >= {job_id for job_id, its in self.jobs.items() if its == owner}


@pytest.mark.parametrize("seed", range(12))
def test_no_walk_leaks_or_loses_a_byte(redis: "Redis", seed: int) -> None:
    walk = Walk(redis, seed)
    events = [walk.submit] * 6 + [walk.work] * 6 + [walk.cancel, walk.cancel, walk.forget, walk.expire, walk.crash]
    for _ in range(80):
        walk.random.choice([*events, walk.flush] if walk.random.random() < 0.1 else events)()
        walk.check()
    finish(walk.stage, walk.worker, *walk.jobs)
    for owner in OWNERS:
        walk.jobs[submit(walk.stage, owner)] = owner
        assert_counted(walk.stage, owner, {job_id for job_id, its in walk.jobs.items() if its == owner})
    while walk.jobs:
        for job_id in list(walk.jobs):
            walk.stage.store.cancel(job_id)
        walk.forget()
    for owner in OWNERS:
        assert_counted(walk.stage, owner, set())
    assert walk.stage.store.directory.num_waiting(QUEUE) == 0
