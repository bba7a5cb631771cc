"""Claims are made in order and once, and bring the logged part of the answer."""

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from common.redis import keys
from common.wire import Failed
from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import Stage, turn
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.ledger import Fenced, bury


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def test_a_claim_brings_what_was_logged(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 4)
    worker.leave()
    claim = stage.worker().ledger.claim(0)
    assert claim is not None and claim.request.id == job_id
    assert claim.num_entries == 4
    assert claim.logged[0].text == expected_text(1, 4)
    assert len(claim.logged[0].token_ids) == 4


def test_fences_rise_and_a_lost_one_raises(stage: Stage) -> None:
    first, second = stage.worker().ledger, stage.worker().ledger
    assert second.fence > first.fence
    first.release()
    with pytest.raises(Fenced):
        first.renew({})
    with pytest.raises(Fenced):
        first.claim(0)


def test_a_claim_that_broke_after_it_was_made_is_the_same_claim(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = stage.submit(1)
    ledger = stage.worker().ledger

    def break_off(*args: object, **kwargs: object) -> None:
        raise RedisConnectionError

    with monkeypatch.context() as patch, pytest.raises(RedisConnectionError):
        patch.setattr(ledger, "_claimed", break_off)
        ledger.claim(0)
    claim = ledger.claim(0)
    assert claim is not None and claim.request.id == job_id
    assert ledger.claim(0) is None


def test_a_worker_whose_lease_had_run_out_lets_the_others_renew_before_it_takes_theirs(stage: Stage) -> None:
    """Redis was away: all leases expired, but no worker died."""
    job_id = stage.submit(1)
    holder, other = stage.worker(), stage.worker()
    turn(holder, 2)
    for worker in (holder, other):
        stage.redis.delete(keys.worker_key(worker.ledger.fence))
    heartbeat = Heartbeat([other])
    heartbeat.beat()
    assert stage.field(job_id, "state") == "running"
    Heartbeat([holder]).beat()
    heartbeat._may_reclaim_at = 0.0
    heartbeat.beat()
    assert stage.field(job_id, "fence") == str(holder.ledger.fence)


def test_a_successor_frees_its_predecessors_jobs_without_waiting_for_the_lease(stage: Stage) -> None:
    job_id = stage.submit(1)
    dead, neighbour = stage.worker(), stage.worker()
    turn(dead, 3)
    assert dead.publisher.confirm() == {}
    assert neighbour.ledger.claim(0) is None
    assert bury(stage.redis, dead.ledger.fence) == 1
    claim = neighbour.ledger.claim(0)
    assert claim is not None and claim.request.id == job_id and claim.num_entries == 3
    assert bury(stage.redis, dead.ledger.fence) == 0


def test_the_lease_is_renewed_even_if_the_report_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = stage.worker()

    def fields() -> dict[str, str]:
        raise RedisConnectionError

    stage.redis.pexpire(keys.worker_key(worker.ledger.fence), 100)
    monkeypatch.setattr(worker, "report", fields)
    Heartbeat([worker]).beat()
    assert stage.redis.pttl(keys.worker_key(worker.ledger.fence)) > 1000


def test_a_heartbeat_finds_cancels_whose_message_was_lost(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 2)
    stage.store.cancel(job_id, "me")
    Heartbeat([worker]).beat()
    [(cancelled, reason)] = worker.inbox.take_cancels()
    assert cancelled == job_id and isinstance(reason, Failed) and reason.code == "cancelled"
