"""The rules of each script of common/redis/scripts, on a real Valkey."""

import time

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from common.errors import Overloaded
from common.redis import keys
from common.redis.rq_seams import now_iso
from common.redis.script import Scripts
from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import QUEUE, Stage, finish, turn


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def kept(redis: "Redis") -> set[str]:
    return {key.decode() for key in redis.scan_iter("*")}


def append(stage: Stage, fence: int, job_id: str, seq: int, end: str = "") -> list[str]:
    row = '{"i":0,"t":[1],"x":"a"}'
    reply = Scripts(stage.redis).run("append", fence, now_iso(), job_id, seq, row, 1, end, "", 0, 0)
    return [part.decode() for part in reply]


def test_submit_writes_a_job_everywhere_or_nowhere(stage: Stage) -> None:
    job_id = stage.submit(1)
    assert stage.redis.hget(f"rq:job:{job_id}", "status") == b"queued"
    assert stage.redis.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job_id.encode()]
    before = kept(stage.redis)
    stage.store.max_queue = 1
    with pytest.raises(Overloaded):
        stage.submit(2)
    assert {key for key in kept(stage.redis) - before if not key.startswith("omni:metrics")} == set()


def test_append_takes_rows_in_order_under_the_fence_of_the_claim_only(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    other = stage.worker().ledger.fence
    assert worker.ledger.claim(0) is not None
    fence = worker.ledger.fence
    assert append(stage, fence, job_id, 2) == [f"{job_id}:gap"]
    assert append(stage, fence, job_id, 1) == []
    assert append(stage, fence, job_id, 1) == [], "a repeated entry is ignored"
    assert append(stage, other, job_id, 2) == [f"{job_id}:running"], "alive, but not the holder"
    assert append(stage, 999, job_id, 2) == ["fenced"]
    assert append(stage, fence, "nobody", 1) == ["nobody:unknown"]
    assert append(stage, fence, job_id, 2, "finished") == []
    assert append(stage, fence, job_id, 3) == [f"{job_id}:finished"]
    assert [entry.seq for entry in stage.entries(job_id)] == [1, 2]


def test_an_ended_job_gets_a_time_to_live_and_leaves_every_index(stage: Stage) -> None:
    job_id = stage.submit(1, deadline_s=60)
    finish(stage, stage.worker(), job_id)
    for key in (keys.job_key(job_id), keys.log_key(job_id), f"rq:job:{job_id}"):
        assert 0 < stage.redis.ttl(key) <= 3600
    for index in ("waiting", "deadlines", "readers", "suspects"):
        assert stage.redis.zcard(f"omni:{index}:{QUEUE}") == 0
    assert stage.redis.zcard(f"rq:wip:{QUEUE}") == stage.redis.llen(f"rq:queue:{QUEUE}") == 0


def test_a_failed_job_is_kept_as_long_as_a_finished_one(redis: "Redis") -> None:
    stage = Stage(redis, ttl_s=50_000)
    ended = [stage.submit(1), stage.submit(2)]
    stage.store.cancel(ended[1])
    finish(stage, stage.worker(), ended[0])
    assert all(40_000 < redis.ttl(keys.job_key(job_id)) <= 50_000 for job_id in ended)


def test_cancel_ends_a_waiting_job_and_flags_a_running_one(stage: Stage) -> None:
    waiting = stage.submit(1)
    assert stage.store.cancel(waiting, "somebody else") == ""
    assert stage.store.cancel(waiting, "me") == "queued"
    assert stage.field(waiting, "state") == "cancelled"
    running = stage.submit(2)
    turn(stage.worker(), 2)
    assert stage.store.cancel(running, "me") == "running"
    assert stage.field(running, "state") == "running"
    assert "cancelled" in stage.field(running, "cancel")
    assert stage.store.cancel(running, "me", "timeout", "late") == "running"
    assert "cancelled" in stage.field(running, "cancel"), "the first reason counts"


def test_a_job_that_is_flagged_when_its_worker_dies_is_not_run_again(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 2)
    stage.store.cancel(job_id, "me")
    stage.bury(worker)
    successor = stage.worker()
    successor.ledger.reclaim()
    assert successor.ledger.claim(0) is None
    assert stage.field(job_id, "state") == "cancelled"


def test_reclaim_restores_the_order_and_touches_only_the_dead(stage: Stage) -> None:
    first, second, third = (stage.submit(seed) for seed in range(3))
    dead, living = stage.worker(), stage.worker()
    dead.ledger.claim(0)
    living.ledger.claim(0)
    stage.bury(dead)
    living.ledger.reclaim()
    assert [stage.field(job_id, "state") for job_id in (first, second, third)] == ["queued", "running", "queued"]
    assert stage.redis.lrange(f"rq:queue:{QUEUE}", 0, -1) == [first.encode(), third.encode()]
    assert stage.field(first, "crashes") == "1"
    assert stage.field(second, "crashes") == "0"


def test_reclaim_of_one_leaves_the_others(stage: Stage) -> None:
    ids = [stage.submit(seed) for seed in range(2)]
    workers = [stage.worker(), stage.worker()]
    for worker in workers:
        worker.ledger.claim(0)
        stage.bury(worker)
    stage.worker().ledger.reclaim(only=workers[0].ledger.fence)
    assert [stage.field(job_id, "state") for job_id in ids] == ["queued", "running"]


@pytest.mark.parametrize("guilty", [0, 10, 33, 63])
def test_a_guilty_job_among_64_is_found_in_8_crashes(stage: Stage, guilty: int) -> None:
    """The worker dies whenever it computes for the guilty one."""
    ids = [stage.submit(seed, 3) for seed in range(64)]
    worker, num_crashes = stage.worker(), 0
    for _ in range(200):
        if all(stage.field(job_id, "state") in ("finished", "failed") for job_id in ids):
            break
        worker.inbox.wake()
        worker.admit()
        scheduled = worker.engine.suspects or set(worker.engine.running)  # type: ignore[attr-defined]
        if ids[guilty] in scheduled:
            num_crashes += 1
            stage.bury(worker)
            worker = stage.worker()
            worker.ledger.reclaim()
        else:
            turn(worker)
    assert num_crashes <= 8
    assert stage.field(ids[guilty], "code") == "worker_crashed"
    innocents = [job_id for number, job_id in enumerate(ids) if number != guilty]
    assert {stage.field(job_id, "state") for job_id in innocents} == {"finished"}


def test_with_full_memory_a_lease_is_renewed_and_a_cancellation_arrives(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 2)
    stage.redis.pexpire(keys.worker_key(worker.ledger.fence), 100)
    stage.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError):
            stage.redis.set("x", 1)
        stage.store.cancel(job_id, "me")
        assert list(worker.ledger.renew({"state": "ready"})) == [job_id]
    finally:
        stage.redis.config_set("maxmemory", 0)
    assert stage.redis.pttl(keys.worker_key(worker.ledger.fence)) > 1000


def test_poll_returns_state_log_length_and_position(stage: Stage) -> None:
    first, second = stage.submit(1), stage.submit(2)
    statuses = stage.store.poll([first, second, "nobody"])
    assert [(status.state, status.num_entries, status.position) for status in statuses] == [
        ("queued", 0, 0),
        ("queued", 0, 1),
        ("", 0, -1),
    ]


def test_after_a_pause_readers_get_their_full_grace_period(stage: Stage) -> None:
    """Redis was away for a minute, so no reader could be renewed."""
    job_id = stage.submit(1)
    long_ago = int(time.time() * 1000) - 60_000
    stage.redis.zadd(f"omni:readers:{QUEUE}", {job_id: long_ago})
    stage.redis.hset(f"omni:awake:{QUEUE}", mapping={"since": long_ago - 60_000, "last": long_ago})
    stage.store.expire(QUEUE)
    assert stage.field(job_id, "state") == "queued"


def test_scripts_survive_being_forgotten(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    for _ in range(5):
        stage.redis.script_flush()
        turn(worker)
    finish(stage, worker, job_id)
    assert stage.text(job_id) == expected_text(1, 10)
