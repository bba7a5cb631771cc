"""The publisher numbers entries, sends until each is stored once, and reports refusals."""

import time
from types import SimpleNamespace

import pytest
from redis import Redis
from redis.exceptions import RedisError

from common.redis.connection import connect
from common.wire import Delta, Failed, Finished
from tests.chaos.scenarios import Stage
from worker.jobs.ledger import Fenced
from worker.jobs.publisher import Publisher, end_of


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def opened(stage: Stage, url: str) -> tuple[str, Publisher]:
    """A claimed job and a publisher that may write its log."""
    job_id = stage.submit(1)
    ledger = stage.worker().ledger
    assert ledger.claim(0) is not None
    publisher = Publisher(connect(url, retries=0), ledger.fence)
    publisher.open(job_id, 0, False)
    return job_id, publisher


DELTA = Delta(0, (1,), "a")


def test_one_call_carries_a_step(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    publisher.send([(job_id, DELTA), (job_id, DELTA), ("not ours", DELTA)])
    assert publisher.confirm() == {}
    assert [entry.seq for entry in stage.entries(job_id)] == [1, 2]


def test_the_log_says_when_it_ended(stage: Stage, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, publisher = opened(stage, valkey_url)
    monkeypatch.setattr("worker.jobs.publisher.time.time", lambda: 1764230000.9)
    publisher.send([(job_id, Finished(3, 2))])
    publisher._drop_connection()  # the same time when it is sent again
    assert publisher.confirm() == {}
    assert [entry.event for entry in stage.entries(job_id)] == [Finished(3, 2, ended=1764230000)]


def test_it_waits_for_redis_and_sends_again(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    publisher.send([(job_id, DELTA)])
    stage.redis.client_kill_filter(_type="normal", skipme=True)
    assert publisher.confirm() == {}
    publisher.send([(job_id, DELTA), (job_id, Finished(3, 2))])
    publisher._drop_connection()
    assert publisher.confirm() == {}
    assert [entry.seq for entry in stage.entries(job_id)] == [1, 2, 3]
    assert stage.field(job_id, "state") == "finished"


def test_a_forgotten_script_is_loaded_again(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    for _ in range(3):
        publisher.send([(job_id, DELTA)])
        publisher.confirm()
        stage.redis.script_flush()
    assert len(stage.entries(job_id)) == 3


def test_full_memory_stops_no_answer(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    stage.redis.config_set("maxmemory", 1)
    try:
        publisher.send([(job_id, DELTA)])
        assert publisher.confirm() == {}
        assert len(stage.entries(job_id)) == 1
    finally:
        stage.redis.config_set("maxmemory", 0)


def test_a_full_disk_is_waited_out(stage: Stage, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As common/process/disk_guard.py has Valkey refuse writes."""
    job_id, publisher = opened(stage, valkey_url)
    stage.redis.config_set("min-replicas-to-write", 1)
    num_entries: list[int] = []

    def make_room(seconds: float) -> None:
        num_entries.append(len(stage.entries(job_id)))
        stage.redis.config_set("min-replicas-to-write", 0)

    monkeypatch.setattr("worker.jobs.publisher.time", SimpleNamespace(sleep=make_room, time=time.time))
    try:
        publisher.send([(job_id, DELTA)])
        assert publisher.confirm() == {}
    finally:
        stage.redis.config_set("min-replicas-to-write", 0)
    assert num_entries == [0] and len(stage.entries(job_id)) == 1


def test_refusals_name_the_job_and_the_reason(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    publisher.open(job_id, 5, False)
    publisher.send([(job_id, DELTA)])
    assert publisher.confirm() == {job_id: "gap"}


def test_a_lost_fence_ends_it(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    publisher.fence = 999
    publisher.send([(job_id, DELTA)])
    with pytest.raises(Fenced):
        publisher.confirm()


def test_an_error_that_waiting_cannot_cure_is_raised(stage: Stage, valkey_url: str) -> None:
    job_id, publisher = opened(stage, valkey_url)
    stage.redis.set(f"omni:log:{job_id}", "not a stream")
    publisher.send([(job_id, DELTA)])
    with pytest.raises(RedisError):
        publisher.confirm()


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (DELTA, ("", "")),
        (Finished(1, 1), ("finished", "")),
        (Failed("cancelled", ""), ("cancelled", "cancelled")),
        (Failed("client_gone", ""), ("cancelled", "client_gone")),
        (Failed("timeout", ""), ("failed", "timeout")),
    ],
)
def test_an_event_has_the_final_state_of_its_job(event: Delta | Finished | Failed, state: tuple[str, str]) -> None:
    assert end_of(event) == state
