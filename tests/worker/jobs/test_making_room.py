"""A full worker makes room for a waiting owner within a step; the jobs that give way lose nothing."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.jobs.generation import rq_job
from common.flag import Flag
from common.redis.metrics import read
from common.redis.submission import Submission
from common.wire import Delta, Finished, GenerationRequest, SamplingParams, Tier
from tests.chaos.checker import Report, check_log, check_redis
from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import QUEUE, Stage, finish, turn
from tests.worker.conftest import ModelFolder, prompt_of
from tests.worker.engine.test_sharing import BYTES_PER_BLOCK
from worker.engine.engine import Engine
from worker.jobs.hang_watch import HangWatch
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher
from worker.jobs.served_model import ServedModel
from worker.models.loader import EngineConfig, load


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


def held(worker: ServedModel) -> int:
    return len(worker.engine.running)  # type: ignore[attr-defined]


def judged(stage: Stage, jobs: dict[str, tuple[int, int]]) -> list[str]:
    """The faults of these jobs (id -> seed, tokens)."""
    report = Report()
    check_redis(report, stage.redis, QUEUE, jobs)
    for job_id, (seed, num_tokens) in jobs.items():
        check_log(report, stage.redis, job_id, "finished")
        if stage.text(job_id) != expected_text(seed, num_tokens):
            report.wrong.append(f"the text of {job_id} differs")
    left = [name for name in ("places", "served") if stage.redis.exists(f"omni:{name}:{QUEUE}")]
    return [*report.verdicts, *(f"omni:{name} was left" for name in left)]


def test_a_light_key_gets_a_place_in_the_next_step_despite_four_hundred_long_jobs_of_another(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=8)
    for seed in range(400):
        stage.submit(seed, 1900, owner="heavy")
    turn(worker, 3)
    for seed in range(1000, 1010):
        light = stage.submit(seed, 2, owner="light")
        turn(worker, 1)
        assert stage.field(light, "state") == "running"
        turn(worker, 1)
        assert held(worker) == 7
        turn(worker, 1)
        assert stage.field(light, "state") == "finished"
        assert held(worker) == 8


def test_a_job_that_gave_way_continues_exactly_once_and_in_order(stage: Stage) -> None:
    workers = [stage.worker(max_num_seqs=4) for _ in range(2)]
    jobs: dict[str, tuple[int, int]] = {}
    for seed in range(30):
        jobs[stage.submit(seed, 40, owner="a")] = seed, 40
    for number in range(120):
        if number % 4 == 0:
            seed, owner = 100 + number, "bcd"[number % 3]
            jobs[stage.submit(seed, 5, owner=owner)] = seed, 5
        turn(workers[number % 2], 1)
    for worker in itertools.islice(itertools.cycle(workers), 1000):
        turn(worker)
    for worker in workers:
        worker.publisher.confirm()
    made_room = [int(stage.field(job_id, "made_room") or 0) for job_id in jobs]
    assert sum(made_room) > 5 and max(made_room) <= 12
    assert {stage.field(job_id, "crashes") for job_id in jobs} == {"0"}
    assert judged(stage, jobs) == []


def test_two_owners_reach_halves_and_then_no_job_moves(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=8)
    for owner in "ab":
        for seed in range(20):
            stage.submit(seed, 10_000, owner=owner)
        turn(worker, 10)
    places = {name.decode(): int(number) for name, number in stage.redis.hgetall(f"omni:places:{QUEUE}").items()}
    assert places == {"a": 4, "b": 4}
    moved = [int(stage.field(key.decode()[9:], "made_room") or 0) for key in stage.redis.scan_iter("omni:job:*")]
    turn(worker, 50)
    assert sum(moved) == 4
    assert stage.redis.hget(f"omni:metrics:{QUEUE}", "jobs_that_made_room") == b"4"


def test_one_key_alone_displaces_no_job_and_does_not_ask_redis_at_each_step(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = stage.worker(max_num_seqs=2)
    for seed in range(10):
        stage.submit(seed, 1000, owner="a")
    turn(worker, 2)
    asked: list[int] = []
    real = worker.ledger.waiter
    monkeypatch.setattr(worker.ledger, "waiter", lambda: asked.append(1) or real())
    for _ in range(50):
        worker.admit()
        worker.make_room()
        worker.step()
    assert len(asked) <= 2
    assert stage.redis.hget(f"omni:metrics:{QUEUE}", "jobs_that_made_room") is None


def test_no_job_joins_suspects_and_no_suspect_gives_way(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=2)
    suspects = [stage.submit(seed, 1000, owner="a") for seed in range(4)]
    turn(worker, 1)
    stage.bury(worker)
    successor = stage.worker(max_num_seqs=1)
    successor.ledger.reclaim()
    successor.admit()
    light = stage.submit(9, 2, owner="b")
    successor.make_room()
    assert stage.field(light, "state") == "queued"
    assert [stage.field(job_id, "state") for job_id in suspects].count("running") == 1


def test_a_lost_reply_leaves_no_job_without_a_worker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs were changed in Redis, and the worker did not receive the reply."""
    worker = stage.worker(max_num_seqs=2)
    jobs = {stage.submit(seed, 60, owner="a"): (seed, 60) for seed in range(4)}
    turn(worker, 3)
    jobs[stage.submit(9, 30, owner="b")] = 9, 30
    real = worker.ledger._scripts.run

    def lose(name: str, *args: object) -> object:
        answer = real(name, *args)
        if name == "claim" and args[-1] in jobs:
            raise RedisConnectionError("lost")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(worker.ledger._scripts, "run", lose)
        worker.inbox.wake()
        with pytest.raises(RedisConnectionError):
            worker.admit()
            worker.make_room()
    jobs[stage.submit(10, 5, owner="c")] = 10, 5
    finish(stage, worker, *jobs)
    worker.publisher.confirm()
    assert judged(stage, jobs) == []


def test_a_worker_that_dies_while_a_job_makes_room_loses_nothing_and_that_job_is_not_blamed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = stage.worker(max_num_seqs=2)
    jobs = {stage.submit(seed, 60, owner="a"): (seed, 60) for seed in range(2)}
    turn(worker, 5)
    jobs[light := stage.submit(9, 30, owner="b")] = 9, 30

    def die(job_id: str) -> None:
        raise SystemExit(job_id)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as death:
        patch.setattr(worker, "_drop", die)
        turn(worker)
    assert stage.field(light, "state") == "running" and stage.field(str(death.value), "state") == "queued"
    stage.bury(worker)
    successor = stage.worker(max_num_seqs=2)
    successor.ledger.reclaim()
    finish(stage, successor, *jobs)
    successor.publisher.confirm()
    assert judged(stage, jobs) == []
    assert stage.field(str(death.value), "crashes") == "0"


def test_order_within_an_owner_stays(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=3)
    ids = [stage.submit(seed, 30, owner="a") for seed in range(9)]
    turn(worker, 3)
    for seed in range(100, 104):
        stage.submit(seed, 2, owner="b")
        turn(worker, 4)
    finish(stage, worker, *ids)
    first = [int(stage.field(job_id, "first_claimed")) for job_id in ids]
    assert first == sorted(first)


class RealEngine:
    """A queue, and a worker with a real float32 model that runs `max_num_seqs` sequences at a time."""

    def __init__(self, stage: Stage, folder: Path, max_num_seqs: int, **limits: int) -> None:
        config = EngineConfig(max_num_seqs=max_num_seqs, max_step_tokens=64, threads=1, dtype="float32", **limits)  # type: ignore[arg-type]
        loaded = load(str(folder), (QUEUE,), config, lambda stage, fraction: None)
        self.stage = stage
        self.engine = Engine(loaded, config)
        ledger = Ledger(stage.redis, QUEUE, "real")
        ledger.publish_card(self.engine.card)
        publisher = Publisher(stage.redis, ledger.register())
        ledger.renew({})
        self.worker = ServedModel(ledger, self.engine, publisher, Flag(), HangWatch(os.open(os.devnull, os.O_WRONLY)))

    def submit(self, number: int, owner: str, tier: Tier = "default", **sampling: Any) -> str:
        request = GenerationRequest(
            f"{owner}-{number}-{time.monotonic_ns()}",
            QUEUE,
            tuple(prompt_of(21, number)),
            SamplingParams(seed=number, **sampling),
            is_flex=tier == "flex",
        )
        form = {"kind": "chat", "id": request.id, "model": QUEUE, "created": 0}
        submission = Submission(request, QUEUE, owner, self.engine.card.revision, form, background=True, tier=tier)
        return self.stage.store.submit(submission, rq_job(self.stage.redis, request.id, QUEUE)).job_id

    def heard(self, job_id: str) -> tuple[list[tuple[int, ...]], str, Finished]:
        """Token ids of each choice, all text, and the end."""
        *deltas, end = [entry.event for entry in self.stage.entries(job_id)]
        assert isinstance(end, Finished) and all(isinstance(event, Delta) for event in deltas)
        by_choice: dict[int, tuple[int, ...]] = {}
        for delta in sorted(deltas, key=lambda delta: delta.index):
            by_choice[delta.index] = by_choice.get(delta.index, ()) + delta.token_ids
        return list(by_choice.values()), "".join(delta.text for delta in deltas if delta.index == 0), end


LONG = [
    {"max_tokens": 60, "temperature": 0.0},
    {"max_tokens": 60, "temperature": 1.3, "top_p": 0.9},
    {"max_tokens": 60, "temperature": 0.0, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    {"max_tokens": 40, "temperature": 1.0, "n": 2},
]


def test_an_answer_is_the_same_whether_its_job_made_room_or_not(stage: Stage, model_folder: ModelFolder) -> None:
    real = RealEngine(stage, model_folder(), max_num_seqs=5)
    undisturbed = [real.submit(number, "a", **sampling) for number, sampling in enumerate(LONG)]
    finish(stage, real.worker, *undisturbed)
    long = [real.submit(number, "a", **sampling) for number, sampling in enumerate(LONG)]
    light = []
    for number in range(8):
        turn(real.worker, 5)
        light.append(real.submit(number, "b", max_tokens=3, temperature=0.0))
    finish(stage, real.worker, *long, *light)
    assert sum(int(stage.field(job_id, "made_room") or 0) for job_id in long) >= 5
    for before, after in zip(undisturbed, long, strict=True):
        (ids, text, end), (ids_after, text_after, end_after) = real.heard(before), real.heard(after)
        assert (ids_after, text_after) == (ids, text)
        assert (end_after.prompt_tokens, end_after.completion_tokens) == (end.prompt_tokens, end.completion_tokens)
    counted = read(stage.redis, QUEUE)
    assert counted["generation_tokens"] == 2 * (3 * 60 + 2 * 40) + 8 * 3
    assert counted["prompt_tokens"] == (2 * len(LONG) + 8) * 21


def test_a_job_too_long_for_what_is_left_is_not_claimed_to_wait_in_the_engine(
    stage: Stage, model_folder: ModelFolder
) -> None:
    real = RealEngine(stage, model_folder(), 8, max_model_len=128, kv_memory_bytes=20 * BYTES_PER_BLOCK)
    answer = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True}
    long = [real.submit(number, "a", **answer) for number in range(3)]
    turn(real.worker, 3)
    assert real.engine.has_room(1, 1) and not real.engine.has_room(21, 1, 60)
    light = real.submit(9, "b", **answer)
    turn(real.worker, 3)
    assert stage.field(light, "first_row")
    finish(stage, real.worker, light, *long)


def test_a_job_with_many_choices_is_claimed_as_soon_as_its_first_one_fits(
    stage: Stage, model_folder: ModelFolder
) -> None:
    """Its choices share the prompt, and may be more than there are places."""
    real = RealEngine(stage, model_folder(), 4, max_model_len=128, kv_memory_bytes=20 * BYTES_PER_BLOCK)
    answer = {"temperature": 0.0, "ignore_eos": True}
    running = [real.submit(number, "a", max_tokens=60, **answer) for number in range(2)]
    turn(real.worker, 3)
    assert real.engine.has_room(21, 1, 20) and not real.engine.has_room(21, 6, 20)
    assert not real.engine.has_ample_room()
    many = real.submit(2, "a", max_tokens=20, n=6, **answer)
    turn(real.worker, 6)
    assert stage.field(many, "first_row") and not stage.field(running[0], "ended_at")
    finish(stage, real.worker, many, *running)
