"""What waits in several queues, as the worker of many models reads it."""

import shutil
import time
from pathlib import Path

import pytest
from redis import Redis

from common.redis import script
from tests.chaos.scenarios import QUEUE, Stage, turn
from worker.jobs.waits import Waits
from worker.shelf.view import Waiting


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def waiting(stage: Stage) -> Waiting:
    return Waits(stage.redis).of([QUEUE])[QUEUE]


def came(stage: Stage, job_id: str, seconds_ago: float) -> None:
    """As if the job had come so long ago."""
    stage.redis.hset(f"omni:job:{job_id}", "queued", round((time.time() - seconds_ago) * 1000))


def test_a_queue_in_which_nothing_waits_is_left_out(stage: Stage) -> None:
    stage.submit(1)
    assert list(Waits(stage.redis).of(["another", QUEUE, "a third"])) == [QUEUE]


def test_jobs_keys_and_the_head_are_told(stage: Stage) -> None:
    stage.submit(1, num_tokens=10, owner="a", priority=3)
    stage.submit(2, num_tokens=10, owner="b", weight=2.0)
    stage.submit(3, num_tokens=10, owner="b", tier="flex")
    found = waiting(stage)
    assert (found.jobs, found.keys, found.tier, found.class_) == (3, 3.0, "default", 0)
    stage.submit(4, owner="c", tier="priority")
    assert (waiting(stage).tier, waiting(stage).class_) == ("priority", -1000)


def test_the_oldest_job_counts_not_the_one_that_goes_first(stage: Stage) -> None:
    """A key that comes later may be served first; that makes nobody's wait shorter."""
    first = stage.submit(1, num_tokens=100, owner="a")
    came(stage, stage.submit(2, owner="a"), 1)
    came(stage, stage.submit(3, owner="b"), 2)
    came(stage, first, 60)
    assert waiting(stage).oldest_s == pytest.approx(60, abs=1)


def oldest_is_told(redis: "Redis") -> None:
    stage = Stage(redis)
    came(stage, stage.submit(1, owner="b"), 60)
    came(stage, stage.submit(2, owner="a"), 1)
    assert waiting(stage).oldest_s == pytest.approx(60, abs=1)


def test_a_script_that_looks_at_one_key_alone_is_noticed(
    redis: "Redis", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    oldest_is_told(redis)
    redis.flushall()
    folder = shutil.copytree(script.FOLDER, tmp_path / "scripts")
    text = (folder / "waits.lua").read_text()
    (folder / "waits.lua").write_text(text.replace("MOST_KEYS - 1", "0"))
    monkeypatch.setattr(script.Scripts.__init__, "__defaults__", (folder,))
    with pytest.raises(AssertionError):
        oldest_is_told(redis)


def test_flex_jobs_are_told_apart(stage: Stage) -> None:
    came(stage, stage.submit(1, tier="flex", deadline_s=100), 50)
    assert (waiting(stage).oldest_s, waiting(stage).deadline_s, waiting(stage).has_new) == (None, None, False)
    assert waiting(stage).oldest_flex_s == pytest.approx(50, abs=1)
    assert waiting(stage).flex_deadline_s == pytest.approx(100, abs=1)
    stage.submit(2, deadline_s=20)
    assert waiting(stage).deadline_s == pytest.approx(20, abs=1)
    assert waiting(stage).has_new


def test_a_deadline_of_a_job_that_waits_for_its_time_does_not_count(stage: Stage) -> None:
    stage.submit(1, deadline_s=5, not_before_ms=round((time.time() + 60) * 1000))
    assert not Waits(stage.redis).of([QUEUE])
    stage.submit(2)
    assert waiting(stage).deadline_s is None


def test_an_answer_that_was_paused_is_no_new_job(stage: Stage) -> None:
    job_id, worker = stage.submit(1), stage.worker()
    turn(worker)
    worker.ledger.give_back(job_id)
    assert (waiting(stage).jobs, waiting(stage).has_new) == (1, False)
    stage.submit(2)
    assert waiting(stage).has_new


def test_suspects_are_told(stage: Stage) -> None:
    job_id, worker = stage.submit(1, tier="priority"), stage.worker()
    turn(worker)
    stage.bury(worker)
    stage.worker().ledger.reclaim()
    found = waiting(stage)
    assert (found.jobs, found.tier) == (1, "priority")
    assert found.oldest_s is not None and stage.field(job_id, "state") == "queued"


def test_a_long_queue_takes_no_more_commands_than_a_short_one(stage: Stage) -> None:
    def num_commands() -> int:
        calls = stage.redis.info("commandstats")
        return sum(calls[name]["calls"] for name in calls)

    def asked(num_jobs: int) -> int:
        for seed in range(num_jobs):
            stage.submit(seed, owner=f"key-{seed % 4}")
        before = num_commands()
        waiting(stage)
        return num_commands() - before

    short = asked(8)
    assert asked(400) == short


def test_many_keys_are_looked_at_up_to_a_bound(stage: Stage) -> None:
    for seed in range(100):
        stage.submit(seed, owner=f"key-{seed}")
    assert waiting(stage).keys == 100
