"""Two workers of one model take jobs from the head of one queue; one finishes the jobs that the other leaves."""

from collections.abc import Callable

import pytest
from redis import Redis

from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import Stage, finish, turn
from worker.jobs.ledger import Claim
from worker.jobs.served_model import ServedModel


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def narrow(worker: ServedModel, num_seqs: int, claimed: list[tuple[str, str]]) -> ServedModel:
    """A worker with this many places, which notes each claim as (worker, job)."""
    claim: Callable[[int], Claim | None] = worker.ledger.claim

    def noted(num_suspects: int, *expected: str) -> Claim | None:
        found = claim(num_suspects, *expected)
        if found is not None:
            claimed.append((worker.ledger.worker_name, found.request.id))
        return found

    worker.engine.max_num_seqs = num_seqs  # type: ignore[attr-defined]
    worker.ledger.claim = noted  # type: ignore[method-assign]
    return worker


def test_two_workers_share_one_queue_and_keep_its_order(stage: Stage) -> None:
    claimed: list[tuple[str, str]] = []
    workers = [narrow(stage.worker(), num_seqs, claimed) for num_seqs in (1, 3)]
    ids = [stage.submit(seed, 3 + seed % 4) for seed in range(16)]
    for _ in range(60):
        for worker in workers:
            turn(worker)
    assert [job_id for _, job_id in claimed] == ids
    assert {name for name, _ in claimed} == {worker.ledger.worker_name for worker in workers}
    assert [stage.text(job_id) for job_id in ids] == [expected_text(seed, 3 + seed % 4) for seed in range(16)]


def test_the_jobs_of_a_dead_worker_are_first_in_the_queue(stage: Stage) -> None:
    claimed: list[tuple[str, str]] = []
    dead, living = (narrow(stage.worker(), 2, claimed) for _ in range(2))
    ids = [stage.submit(seed, 8) for seed in range(6)]
    turn(dead, 3)
    stage.bury(dead)
    assert living.ledger.reclaim() == 2
    finish(stage, living, *ids)
    assert [job_id for name, job_id in claimed if name == living.ledger.worker_name] == ids
    assert [stage.text(job_id) for job_id in ids] == [expected_text(seed, 8) for seed in range(6)]
