"""OmniWorker admits in order, waits while Redis is away, and gives back jobs that it cannot continue."""

import os
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, ResponseError
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from common.errors import InvalidRequest
from common.process.child import Watch
from common.wire import Failed
from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import QUEUE, Stage, finish, turn
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.served_model import patiently


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def test_a_running_job_is_started_in_rqs_eyes_too(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 2)
    assert Job.fetch(job_id, stage.redis, serializer=JSONSerializer).get_status() == "started"
    registry = StartedJobRegistry(QUEUE, stage.redis, serializer=JSONSerializer)
    assert registry.get_job_ids(cleanup=False) == [job_id]


def test_a_job_for_other_weights_fails_with_a_clear_code(stage: Stage) -> None:
    job_id = stage.submit(1)
    stage.redis.hset(f"omni:job:{job_id}", "revision", "older")
    finish(stage, stage.worker(), job_id)
    assert stage.field(job_id, "code") == "model_changed"


def test_a_loading_redis_ends_no_job(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    monkeypatch.setattr("worker.jobs.served_model.RETRY_S", 0.0)

    def loading(*_: object) -> None:
        raise BusyLoadingError("Redis is loading the dataset in memory")

    with monkeypatch.context() as patch:
        patch.setattr(worker.ledger, "claim", loading)
        patiently(worker.admit)
    finish(stage, worker, job_id)

    def wrong() -> None:
        raise ResponseError("WRONGTYPE")

    with pytest.raises(ResponseError):
        patiently(wrong)


def test_two_reasons_to_cancel_are_one_end(stage: Stage) -> None:
    job_id = stage.submit(1, 1000)
    worker = stage.worker()
    turn(worker, 2)
    for code in ("cancelled", "client_gone"):
        worker.inbox.cancel(job_id, Failed(code, "gone"))
    turn(worker, 2)
    assert worker.publisher.confirm() == {}
    rows = stage.entries(job_id)
    assert [isinstance(row.event, Failed) for row in rows].count(True) == 1


def test_a_request_that_is_refused_leaves_no_step_open_for_which_the_worker_would_be_killed() -> None:
    watch = Watch(step_timeout_s=0.0)

    def refuse() -> None:
        raise InvalidRequest("too long")

    with pytest.raises(InvalidRequest):
        HangWatch(watch.write_fd).run(refuse, 7)
    assert watch.read() and not watch.is_stuck
    with pytest.raises(ZeroDivisionError):
        HangWatch(watch.write_fd).run(lambda: 1 // 0, 7)
    watch.forget_child()
    assert watch.died_in == "step 7"
    watch.close()


def test_many_jobs_run_in_one_worker_and_end_right(stage: Stage) -> None:
    ids = [stage.submit(seed, 5 + seed) for seed in range(20)]
    finish(stage, stage.worker(), *ids)
    assert [stage.text(job_id) for job_id in ids] == [expected_text(seed, 5 + seed) for seed in range(20)]


def test_a_worker_that_leaves_during_a_beat_is_not_taken_for_replaced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends with leave(), so that beat is fenced."""
    worker = stage.worker()
    has_begun, may_go_on, exits = threading.Event(), threading.Event(), list[int]()
    monkeypatch.setattr(os, "_exit", exits.append)

    def report() -> Mapping[str, Any]:
        has_begun.set()
        may_go_on.wait(20)
        return {}

    monkeypatch.setattr(worker, "report", report)
    heartbeat = Heartbeat([worker])
    heartbeat.start()
    assert has_begun.wait(20)
    heartbeat.stop()
    worker.leave()
    may_go_on.set()
    heartbeat.join(20)
    assert not heartbeat.is_alive() and not exits
