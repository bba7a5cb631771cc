"""One scenario for each mechanism that bounds memory; see scenarios.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError

from api.jobs import generation
from common.errors import KeyLimited, Overloaded, Unavailable
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams
from tests.chaos.fake_worker import REVISION, expected_text
from tests.chaos.scenarios import QUEUE, Stage, finish, turn

ROOM = 32 * 2**20
NO_ROOM = 1


@contextmanager
def memory(redis: "Redis", room: int) -> Iterator[None]:
    """Let Redis take this many bytes more than now; NO_ROOM: it is full."""
    used = int(redis.info("memory")["used_memory"])
    redis.config_set("maxmemory", NO_ROOM if room == NO_ROOM else used + room)
    try:
        yield
    finally:
        redis.config_set("maxmemory", 0)


def submit(stage: Stage, owner: str, num_bytes: int = 0, **fields: object) -> str:
    """Submit a request of about this many bytes."""
    request = GenerationRequest(f"{owner}-{uuid4().hex}", QUEUE, (1, 2, 3), SamplingParams(10, 1))
    form = {"kind": "chat", "id": request.id, "model": QUEUE, "created": 0, "input": "x" * num_bytes}
    submission = Submission(request, QUEUE, owner, REVISION, form, background=True, **fields)  # type: ignore[arg-type]
    return generation.submit(stage.store, submission).job_id


def fill(stage: Stage, owner: str) -> int:
    """Submit as many requests of 16 KiB as this key may have, until its own limit refuses one."""
    stage.store.max_queue = 10_000
    for number in range(stage.store.max_queue):
        try:
            submit(stage, owner, 2**14)
        except KeyLimited as refused:
            assert refused.param == "max_kept_bytes"
            assert "delete stored responses" in refused.message
            return number
        except Unavailable:
            break
    raise AssertionError("one key may fill all")


def kept(stage: Stage, owner: str) -> dict[str, int]:
    return {name.decode(): int(number) for name, number in stage.redis.hgetall(f"omni:kept:{owner}").items()}


def assert_counted(stage: Stage, owner: str, job_ids: set[str]) -> None:
    """Exactly these jobs are counted, and the total is their sum."""
    counted = kept(stage, owner)
    total = counted.pop("total", 0)
    assert counted.keys() == job_ids
    assert total == sum(counted.values())
    assert all(number > 0 for number in counted.values())


def one_key_leaves_room_for_others(stage: Stage) -> None:
    with memory(stage.redis, ROOM):
        taken = []
        for owner in ("greedy", "greedier", "greediest"):
            taken.append(fill(stage, owner))
            assert submit(stage, f"not-{owner}")
        assert taken[0] > taken[1] > taken[2] >= 1
        assert fill(stage, "greedy") == 0


def a_full_line_takes_one_job_of_a_key_that_has_none(stage: Stage) -> None:
    stage.store.max_queue = 3
    for _ in range(3):
        submit(stage, "greedy")
    for owner in ("greedy", "other", "third"):
        try:
            submit(stage, owner)
            assert owner != "greedy"
        except Overloaded:
            assert owner == "greedy", "one key shuts the others out"
    with pytest.raises(Overloaded):
        submit(stage, "other")


def new_jobs_are_refused_before_memory_is_full(stage: Stage) -> None:
    with memory(stage.redis, 2**20):
        for number in range(1000):
            try:
                submit(stage, f"key-{number}", 20_000)
            except Unavailable as refused:
                assert "nearly out of memory" in refused.message
                stage.redis.set("room", "x" * 1000)
                return
            except KeyLimited:  # as it wants three quarters of what is left; others fill that
                stage.redis.append("others", "x" * 1000)
    raise AssertionError("nobody was refused")


def accepted_jobs_continue_when_memory_is_full(stage: Stage) -> None:
    """Memory is full from one moment to the next, and the worker dies as well."""
    job_id, waiting = stage.submit(1), stage.submit(2)
    worker = stage.worker()
    turn(worker, 2)
    with memory(stage.redis, NO_ROOM):
        with pytest.raises(Unavailable):
            submit(stage, "me")
        try:
            stage.store.poll([job_id])
            stage.store.expire(QUEUE)
            stage.bury(worker)
            successor = stage.worker()
            successor.ledger.reclaim()
            finish(stage, successor, job_id, waiting)
        except RedisError as error:
            raise AssertionError(f"it does not go on: {error}") from None
    assert (stage.text(job_id), stage.text(waiting)) == (expected_text(1, 10), expected_text(2, 10))


def a_full_redis_accepts_nothing(stage: Stage) -> None:
    """Not even into an empty queue, where the script begins with a removal."""
    with memory(stage.redis, NO_ROOM), pytest.raises(Unavailable):
        submit(stage, "me")
    assert stage.store.directory.num_waiting(QUEUE) == 0


def expired_jobs_are_not_counted(stage: Stage) -> None:
    first, second = submit(stage, "me", 1000), submit(stage, "me", 1000)
    most = kept(stage, "me")[first]
    finish(stage, stage.worker(), first, second)
    assert_counted(stage, "me", {first, second})
    assert 1000 < kept(stage, "me")[first] <= most
    stage.redis.delete(f"omni:job:{first}", f"omni:log:{first}")  # its time is over
    stage.redis.zadd("omni:jobs:me", {first: 1})
    third = submit(stage, "me")
    assert_counted(stage, "me", {second, third})
    assert stage.store.cancel(third, "me") == "queued"
    assert stage.store.forget(second) and stage.store.forget(third)
    assert_counted(stage, "me", set())


def a_policy_that_deletes_is_noticed_at_once(stage: Stage) -> None:
    stage.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(Unavailable, match="allkeys-lru, which would delete jobs"):
            submit(stage, "me")
    finally:
        stage.redis.config_set("maxmemory-policy", "noeviction")
    assert submit(stage, "me")


def an_idempotency_key_lives_as_long_as_its_job(stage: Stage) -> None:
    job_id = submit(stage, "me", idempotency_key="k", body_digest="d")
    [key] = stage.redis.scan_iter("omni:idem:*")
    assert stage.redis.ttl(key) == -1, "its job may run for long"
    finish(stage, stage.worker(), job_id)
    assert stage.redis.ttl(key) == stage.redis.ttl(f"omni:job:{job_id}")
    assert stage.store.forget(job_id)
    assert not stage.redis.exists(key)


MEMORY_CONTROLS = {
    "no_share_of_memory": one_key_leaves_room_for_others,
    "full_for_all": a_full_line_takes_one_job_of_a_key_that_has_none,
    "no_memory_reserve": new_jobs_are_refused_before_memory_is_full,
    "all_stops_at_full_memory": accepted_jobs_continue_when_memory_is_full,
    "removals_open_a_full_redis": a_full_redis_accepts_nothing,
    "kept_forever": expired_jobs_are_not_counted,
    "any_eviction_policy": a_policy_that_deletes_is_noticed_at_once,
    "keys_outlive_jobs": an_idempotency_key_lives_as_long_as_its_job,
}
