"""Jobs with a `not_before`: accepted at once, admitted then, each of them once."""

import time

import pytest
from redis import Redis

from common.errors import KeyLimited, Overloaded
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.keys import owner_of
from tests.chaos.scenarios import QUEUE, Stage, finish


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def later(stage: Stage, seed: int, in_s: float = 60.0, **fields: object) -> str:
    return stage.submit(seed, not_before_ms=round((time.time() + in_s) * 1000), **fields)


def let_it_be_due(stage: Stage, *job_ids: str) -> None:
    """As if the time had come."""
    stage.redis.zadd(f"omni:later:{QUEUE}", dict.fromkeys(job_ids, 1), xx=True)


def test_a_job_is_admitted_when_its_time_has_come_and_not_before(stage: Stage) -> None:
    job_id, worker = later(stage, 1), stage.worker()
    stage.store.expire(QUEUE)
    assert worker.ledger.claim(0) is None
    job = stage.store.jobs.get(job_id)
    assert job is not None and (job.state, job.position, job.is_scheduled) == ("queued", -1, True)
    assert 55 < job.eta_s < 65
    assert stage.redis.zscore(f"rq:scheduled:{QUEUE}", job_id) and not stage.redis.llen(f"rq:queue:{QUEUE}")
    let_it_be_due(stage, job_id)
    stage.store.expire(QUEUE)
    assert stage.redis.zcard(f"rq:scheduled:{QUEUE}") == 0
    finish(stage, worker, job_id)
    assert stage.field(job_id, "state") == "finished"


def test_a_time_that_has_passed_is_now(stage: Stage) -> None:
    job_id = later(stage, 1, -5)
    claim = stage.worker().ledger.claim(0)
    assert claim is not None and claim.request.id == job_id


def test_a_job_joins_the_queue_behind_those_that_were_there_before(stage: Stage) -> None:
    early = later(stage, 1)
    first = stage.submit(2)
    let_it_be_due(stage, early)
    stage.store.expire(QUEUE)
    last = stage.submit(3)
    ledger = stage.worker().ledger
    claims = [ledger.claim(0) for _ in range(3)]
    assert [claim.request.id for claim in claims if claim is not None] == [first, early, last]


def test_many_jobs_that_are_due_at_once_are_all_admitted_by_one_look(stage: Stage) -> None:
    ids = [later(stage, seed) for seed in range(250)]
    let_it_be_due(stage, *ids)
    stage.store.expire(QUEUE)
    assert stage.redis.zcard(f"omni:waiting:{QUEUE}") == 250


def test_a_scheduled_job_can_be_cancelled(stage: Stage) -> None:
    job_id = later(stage, 1)
    assert stage.store.cancel(job_id) == "queued"
    let_it_be_due(stage, job_id)
    stage.store.expire(QUEUE)
    assert stage.field(job_id, "state") == "cancelled"
    assert stage.worker().ledger.claim(0) is None
    assert not stage.redis.zcard(f"omni:later:{QUEUE}") and not stage.redis.zcard(f"rq:scheduled:{QUEUE}")


def test_what_an_operator_removes_in_the_dashboard_is_not_admitted(stage: Stage) -> None:
    job_id = later(stage, 1)
    stage.redis.delete(f"rq:job:{job_id}")
    let_it_be_due(stage, job_id)
    stage.store.expire(QUEUE)
    assert stage.field(job_id, "state") == "cancelled"


def test_its_deadline_counts_from_then(stage: Stage) -> None:
    job_id = later(stage, 1, 60, deadline_s=5)
    stage.store.expire(QUEUE)
    assert stage.field(job_id, "state") == "queued"
    [(_, deadline)] = stage.redis.zrange(f"omni:deadlines:{QUEUE}", 0, -1, withscores=True)
    assert 63 < deadline / 1000 - time.time() < 66


def test_the_same_idempotency_key_is_the_same_scheduled_job(stage: Stage) -> None:
    first = later(stage, 1, idempotency_key="k", body_digest="d")
    assert later(stage, 1, idempotency_key="k", body_digest="d") == first
    assert stage.redis.zcard(f"omni:later:{QUEUE}") == 1


def test_it_counts_among_the_queued_jobs_of_its_key(stage: Stage) -> None:
    owner = owner_of(KeyStore(stage.redis).add("few", KeyLimits(max_queued=1)))
    later(stage, 1, owner=owner)
    with pytest.raises(KeyLimited, match="max_queued"):
        stage.submit(2, owner=owner)


def test_scheduled_jobs_have_a_limit_of_their_own_and_do_not_fill_the_queue(stage: Stage) -> None:
    stage.store.max_queue = 2
    later(stage, 1)
    later(stage, 2)
    with pytest.raises(Overloaded):
        later(stage, 3)
    assert stage.submit(4)


@pytest.mark.parametrize("jump_s", [-3600, 3600], ids=["back", "forward"])
def test_a_jump_of_rediss_clock_neither_loses_nor_doubles_a_job(stage: Stage, jump_s: int) -> None:
    """Moving the times by the jump is the same as moving the clock."""
    ids = [later(stage, seed, 60 * seed) for seed in range(1, 5)]
    for job_id in ids:
        stage.redis.zincrby(f"omni:later:{QUEUE}", -jump_s * 1000, job_id)
    for _ in range(3):
        stage.store.expire(QUEUE)
    waiting, scheduled = stage.redis.zcard(f"omni:waiting:{QUEUE}"), stage.redis.zcard(f"omni:later:{QUEUE}")
    assert (waiting, scheduled) == ((4, 0) if jump_s > 0 else (0, 4))
