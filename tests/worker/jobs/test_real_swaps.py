"""Two real models take turns in one worker: in float32 a paused answer has the tokens of an undisturbed one."""

import time
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from api.jobs.generation import rq_job
from common.redis.metrics import read
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams
from tests.chaos.scenarios import Stage
from tests.worker.conftest import ModelFolder, prompt_of
from tests.worker.jobs.test_making_room import LONG
from tests.worker.jobs.test_swaps import A, B, Table, leaving
from worker.engine.engine import Engine
from worker.jobs.ledger import Ledger
from worker.models.loader import EngineConfig, load
from worker.shelf.changes import Opened

CONFIG = EngineConfig(max_num_seqs=8, max_step_tokens=64, threads=1, dtype="float32")


class RealTable(Table):
    """Both models are read from their folders at each swap."""

    def __init__(self, stage: Stage, folders: dict[str, str]) -> None:
        super().__init__(stage)
        self.folders = folders

    def opened(self, queue: str) -> Opened:
        loaded = load(self.folders[queue], (queue,), CONFIG, lambda what, share: None)
        return Opened(queue, Engine(loaded, CONFIG), num_threads=1)

    def ask(self, queue: str, number: int, **sampling: Any) -> str:
        name, revision = f"{queue}-{number}-{time.monotonic_ns()}", self.models[queue].engine.card.revision
        request = GenerationRequest(name, queue, tuple(prompt_of(21, number)), SamplingParams(seed=number, **sampling))
        form = {"kind": "chat", "id": name, "model": queue, "created": 0}
        submission = Submission(request, queue, "me", revision, form, background=True)
        return self.stage.store.submit(submission, rq_job(self.stage.redis, name, queue)).job_id

    def heard(self, job_id: str) -> dict[int, list[int]]:
        """Token ids by choice."""
        choices: dict[int, list[int]] = {}
        for entry in self.stage.entries(job_id):
            choices.setdefault(getattr(entry.event, "index", -1), []).extend(getattr(entry.event, "token_ids", ()))
        return choices


@pytest.mark.parametrize("drops_the_log", [False, True], ids=["as it is", "control"])
def test_paused_answers_of_real_models_are_those_of_undisturbed_ones(
    redis: "Redis", model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, *, drops_the_log: bool
) -> None:
    table = RealTable(Stage(redis), {A: str(model_folder()), B: str(model_folder("qwen3"))})
    table.open(A, B)
    alone = {queue: [table.ask(queue, number, **how) for number, how in enumerate(LONG)] for queue in (A, B)}
    table.finish(*alone[A], *alone[B])
    if drops_the_log:
        real = Ledger.claim
        monkeypatch.setattr(Ledger, "claim", lambda *args: (claim := real(*args)) and replace(claim, logged={}))
    paused = {queue: [table.ask(queue, number, **how) for number, how in enumerate(LONG)] for queue in (A, B)}
    table.turn(0, leaving(B, finishes=False))
    for queue, other in ((A, B), (B, A), (A, B)):
        table.turn(9)
        table.turn(0, leaving(queue, finishes=False))
        table.open(other)
    table.open(A)
    table.finish(*paused[A], *paused[B])
    table.turn()
    before, after = ([table.heard(job_id) for queue in (A, B) for job_id in ids[queue]] for ids in (alone, paused))
    assert (before == after) != drops_the_log
    assert all(read(redis, queue)["resumed_jobs"] >= len(LONG) for queue in (A, B))
