"""Flex jobs leave a reserve, are given back as soon as another job has no place, and lose nothing by it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from redis import Redis

from common.redis.metrics import read
from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import QUEUE, Stage, finish, turn
from tests.worker.conftest import ModelFolder
from tests.worker.jobs.test_making_room import LONG, RealEngine, held, judged
from worker.engine import flex as rule
from worker.jobs import queue_head
from worker.jobs.room import MAX_MADE_ROOM, Head, Held, Share, make_room, share_room


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def states(stage: Stage, job_ids: Sequence[str]) -> list[str]:
    return [stage.field(job_id, "state") for job_id in job_ids]


def test_flex_jobs_leave_a_place_which_another_job_takes_in_the_next_step(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=4)
    flex = [stage.submit(seed, 1000, tier="flex") for seed in range(6)]
    turn(worker, 2)
    assert states(stage, flex) == ["running"] * 3 + ["queued"] * 3
    first = stage.submit(10, 3)
    turn(worker)
    assert held(worker) == 4 and stage.field(first, "state") == "running"
    assert stage.redis.hget(f"omni:metrics:{QUEUE}", "jobs_that_made_room") is None


@pytest.mark.parametrize("is_control", [False, True], ids=["tiers", "control"])
def test_flex_jobs_are_given_back_at_once_the_latest_first_whoever_s_they_are(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, is_control: bool
) -> None:
    """The control: with fair shares alone a job waits for its owner's flex jobs."""
    if is_control:
        monkeypatch.setattr(queue_head, "make_room", share_room)
    worker = stage.worker(max_num_seqs=4)
    flex = [stage.submit(seed, 1000, tier="flex", owner="me") for seed in range(6)]
    turn(worker, 2)
    others = [stage.submit(10 + seed, 1000, owner="me") for seed in range(3)]
    turn(worker)
    given = ["running"] * 3 if is_control else ["running", "queued", "queued"]
    assert states(stage, flex)[:3] == given
    assert states(stage, others) == (["running", "queued", "queued"] if is_control else ["running"] * 3)


def test_a_flex_job_is_paused_as_often_as_it_takes_and_its_answer_is_whole(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=1)
    jobs = {stage.submit(0, 2 * MAX_MADE_ROOM + 10, tier="flex"): (0, 2 * MAX_MADE_ROOM + 10)}
    [flex] = jobs
    for seed in range(1, MAX_MADE_ROOM + 5):
        turn(worker, 2)
        assert stage.field(flex, "state") == "running"
        job_id = stage.submit(seed, 1)
        jobs[job_id] = seed, 1
        turn(worker)
        assert stage.field(job_id, "state") != "queued"
        finish(stage, worker, job_id)
    finish(stage, worker, flex)
    worker.publisher.confirm()
    assert stage.text(flex) == expected_text(*jobs[flex])
    assert stage.field(flex, "made_room") in ("", "0") and stage.field(flex, "crashes") == "0"
    assert judged(stage, jobs) == []


def test_a_flex_job_takes_no_place_of_others_and_owners_of_flex_jobs_share_theirs(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=5)
    default = [stage.submit(seed, 1000, owner="a") for seed in range(2)]
    flex = [stage.submit(10 + seed, 1000, owner="b", tier="flex") for seed in range(4)]
    turn(worker, 2)
    assert states(stage, default) == ["running"] * 2 and states(stage, flex) == ["running"] * 2 + ["queued"] * 2
    late = stage.submit(20, 1000, owner="c", tier="flex")
    turn(worker, 2)
    assert states(stage, [*default, *flex, late]) == ["running"] * 3 + ["queued"] * 3 + ["running"]


def test_no_step_is_empty_while_flex_jobs_wait(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=3)
    ids = [stage.submit(seed, 1 + seed % 3, tier="flex") for seed in range(20)]
    num_running = []
    while stage.redis.zcard(f"omni:waiting:{QUEUE}"):
        turn(worker)
        num_running.append(held(worker) or len(worker.held))
    assert min(num_running[:-2]) >= 1
    finish(stage, worker, *ids)


def test_an_engine_that_does_not_pace_runs_flex_jobs_only_alone(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=8)
    worker.engine.paces_flex = False
    jobs = {stage.submit(seed, 20, tier="flex"): (seed, 20) for seed in range(3)}
    flex = list(jobs)
    turn(worker, 3)
    assert states(stage, flex) == ["running"] * 3
    jobs[other := stage.submit(9, 5)] = 9, 5
    turn(worker)
    assert states(stage, flex) == ["queued"] * 3 and stage.field(other, "state") == "running"
    finish(stage, worker, *jobs)
    worker.publisher.confirm()
    assert judged(stage, jobs) == []


def test_flex_answers_are_the_same_whether_they_were_paused_or_not(
    stage: Stage, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "SHARE", 0.0)  # no row joins others, whatever steps cost here
    monkeypatch.setattr(rule, "RECENT_S", -1.0)  # steps without others are full
    real = RealEngine(stage, model_folder(), max_num_seqs=5)
    undisturbed = [real.submit(number, "a", **sampling) for number, sampling in enumerate(LONG)]
    finish(stage, real.worker, *undisturbed)
    paused = [real.submit(number, "a", tier="flex", **sampling) for number, sampling in enumerate(LONG)]
    others = []
    for number in range(10):
        turn(real.worker, 8)
        others.append(real.submit(number, "b", max_tokens=3, temperature=0.0, n=3))
    finish(stage, real.worker, *paused, *others)
    assert int(read(stage.redis, QUEUE)["paused_jobs"]) >= 5
    for before, after in zip(undisturbed, paused, strict=True):
        assert real.heard(before)[:2] == real.heard(after)[:2]


def test_device_time_is_exact_up_to_the_last_logged_step_over_crashes(stage: Stage) -> None:
    """A fake token costs 1,000 microseconds."""
    workers = [stage.worker(max_num_seqs=3)]
    jobs = [stage.submit(seed, 12, tier="flex") for seed in range(2)]
    for _ in range(3):
        turn(workers[-1], 4)
        workers[-1].publisher.confirm()
        stage.bury(workers[-1])
        workers.append(stage.worker(max_num_seqs=3))
        workers[-1].ledger.reclaim()
    finish(stage, workers[-1], *jobs)
    for job_id in jobs:
        assert stage.field(job_id, "gpu_us") == "12000" and stage.field(job_id, "tokens") == "12"
        assert stage.field(job_id, "finish_reason") == "length" and stage.field(job_id, "cached") == "0"
    told = {fields[b"id"].decode(): fields for _, fields in stage.redis.xrange("omni:outbox")}
    assert {told[job_id][b"gpu_us"] for job_id in jobs} == {b"12000"}


def test_time_that_led_to_no_event_is_sent_with_the_next_one(stage: Stage) -> None:
    worker = stage.worker()
    job_id = stage.submit(1, 3)
    turn(worker)
    worker.publisher.charge({job_id: 500, "gone": 7})
    worker.publisher.charge({job_id: 250})
    finish(stage, worker, job_id)
    assert stage.field(job_id, "gpu_us") == "3750"


PLACES = {"p": 1, "d0": 1, "d1": 1, "f0": 2, "f1": 1}
HELD = [
    Held("f0", "a", 1000, 2, tier="flex"),
    Held("d0", "a", 0),
    Held("p", "b", -1000, tier="priority"),
    Held("f1", "b", 1000, 40, 99, tier="flex"),
    Held("d1", "b", 0),
]


def given_for(places: int, **fields: Any) -> list[str]:
    """The jobs given back for a head of a new owner with so many places; the worker's six are taken."""
    head = Head("h", "c", fields.get("tier", "default"), fields.get("class_", 0), 1, 1, places)
    shares = {"c": Share(0), "a": Share(1), "b": Share(1)}
    return make_room(head, shares, HELD, lambda given: sum(PLACES[name] for name in given) >= places)


def test_later_tiers_give_way_first_the_last_tier_and_the_latest_claimed_before_others() -> None:
    assert given_for(1) == ["f1"]
    assert given_for(2) == ["f0"]
    assert given_for(3) == ["f1", "f0"]
    assert given_for(5, tier="priority", class_=-1000) == ["f1", "f0", "d1", "d0"]
    assert given_for(1, tier="flex", class_=1000) == []  # its owner would then have as much as they


def test_an_owner_of_the_same_tier_gives_way_only_if_flex_jobs_are_not_enough() -> None:
    shares = {"c": Share(0), "a": Share(3), "b": Share(1)}
    held = [Held("d0", "a", 0), Held("d1", "a", 0), Held("d2", "a", 0), Held("f", "c", 1000, tier="flex")]
    fits = partial(lambda places, given: len(given) >= places)
    assert make_room(Head("h", "c", "default", 0, 1, 1, 1), shares, held, lambda given: fits(1, given)) == ["f"]
    assert make_room(Head("h", "c", "default", 0, 1, 1, 1), shares, held, lambda given: fits(2, given)) == ["f", "d2"]
    assert make_room(Head("h", "c", "default", 0, 1, 1, 9), shares, held, lambda given: fits(9, given)) == []
