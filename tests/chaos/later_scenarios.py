"""One scenario for each mechanism of jobs for later and of forecasts, as in scenarios.py."""

import time
from collections import Counter
from collections.abc import Callable
from random import Random

from tests.chaos.scenarios import QUEUE, Stage, finish

COUNTED = ("jobs", "places", "prompt", "answer")


def jobs_for_later_are_admitted_once(stage: Stage) -> None:
    """Two processes look for what is due, again and again."""
    ids = [stage.submit(seed, not_before_ms=round(time.time() * 1000) + 60_000) for seed in range(30)]
    stage.redis.zadd(f"omni:later:{QUEUE}", dict.fromkeys(ids, 1), xx=True)
    for _ in range(2):
        stage.store.expire(QUEUE)
        other = Stage(stage.redis)
        other.store._scripts.run("expire", QUEUE, 30_000, "now")
    waiting = Counter(
        member.decode().partition(":")[2] for member in stage.redis.zrange(f"omni:waiting:{QUEUE}", 0, -1)
    )
    assert waiting == Counter(ids)
    assert Counter(job_id.decode() for job_id in stage.redis.lrange(f"rq:queue:{QUEUE}", 0, -1)) == Counter(ids)
    worker = stage.worker()
    finish(stage, worker, *ids)
    assert all(stage.field(job_id, "first_claimed") for job_id in ids)


def recount(stage: Stage) -> dict[str, int]:
    """The backlog, counted from the waiting jobs themselves."""
    found: Counter[str] = Counter()
    for key in ("waiting", "suspects"):
        for member in stage.redis.zrange(f"omni:{key}:{QUEUE}", 0, -1):
            job_id = member.decode().partition(":")[2]
            names = ("class", "places", "num_prompt", "expected")
            job_class, *numbers = (stage.field(job_id, name) for name in names)
            for name, number in zip(COUNTED, (1, *map(int, numbers)), strict=True):
                found[f"{job_class}:{name}"] += number
    return {name: number for name, number in found.items() if number or name.endswith(":jobs")}


def backlog(stage: Stage) -> dict[str, int]:
    found = stage.redis.hgetall(f"omni:backlog:{QUEUE}")
    return {name.decode(): int(value) for name, value in found.items() if int(value) or name.endswith(b":jobs")}


def the_backlog_is_what_waits(stage: Stage) -> None:
    """Counted again after each of many changes."""
    random, worker, ids = Random(5), stage.worker(max_num_seqs=4), [stage.submit(0)]

    def submit() -> None:
        tier = random.choice(("priority", "default", "flex"))
        later = round(time.time() * 1000) + 60_000 if random.random() < 0.2 else 0
        ids.append(stage.submit(len(ids), random.randint(1, 400), tier=tier, not_before_ms=later))

    def let_be_due() -> None:
        stage.redis.zadd(f"omni:later:{QUEUE}", {random.choice(ids): 1}, xx=True)
        stage.store.expire(QUEUE)

    def crash() -> None:
        nonlocal worker
        stage.bury(worker)
        worker = stage.worker(max_num_seqs=4)
        worker.ledger.reclaim()

    def leave() -> None:
        nonlocal worker
        worker.ledger.release()
        worker = stage.worker(max_num_seqs=4)

    changes: list[Callable[[], object]] = [
        submit,
        submit,
        submit,
        lambda: worker.ledger.claim(0),
        lambda: worker.ledger.claim(0),
        lambda: stage.store.cancel(random.choice(ids)),
        let_be_due,
        lambda: worker.ledger.give_back(random.choice(ids)),
        crash,
        leave,
    ]
    for _ in range(250):
        random.choice(changes)()
        assert backlog(stage) == recount(stage)


LATER_CONTROLS: dict[str, Callable[[Stage], None]] = {
    "moved_but_not_removed": jobs_for_later_are_admitted_once,
    "backlog_only_grows": the_backlog_is_what_waits,
}
