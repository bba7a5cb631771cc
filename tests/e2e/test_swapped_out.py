"""Clients of a model that is not loaded: they wait, are told so in comments, and get one whole answer.

The API is the real one; the worker is told what to say.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.conftest import card, chat_tokenizer
from tests.api.events import log
from tests.api.shelves import TABLE, ShelvedApi
from tests.chaos.harness import wait_until
from tests.service import RunningService, without_comments
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher

TEXT = "One answer, in two parts."
ASKED = {"model": "b", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Reader(threading.Thread):
    """Reads one stream; `text` grows while it does."""

    def __init__(self, service: RunningService, path: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.service, self.path, self.body = service, path, body
        self.text = ""
        self.start()

    def run(self) -> None:
        with self.service.http() as http, http.stream("POST", self.path, json=self.body) as answer:
            for part in answer.iter_text():
                self.text += part

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def wait_for(self, begins: str) -> None:
        wait_until(lambda: any(line.startswith(begins) for line in self.lines), 20, begins)


class Stage:
    """The service with a table, and a worker that is a script."""

    def __init__(self, folder: Path) -> None:
        (folder / "models.toml").write_text(TABLE)
        self.service = RunningService(folder, {"OMNI_MODELS": str(folder / "models.toml")})
        del self.service.env["OMNI_MODEL"]
        self.service.start("redis")
        redis = self.service.redis()
        wait_until(lambda: bool(redis.ping()), 20)
        self.table = ShelvedApi(redis, self.service.redis_url, folder, card(chat_tokenizer()))
        self.service.start("api")
        wait_until(self.is_live, 60)
        self.ledger = Ledger(redis, "b", "w")
        self.ledger.register()
        self.publisher = Publisher(redis, self.ledger.fence)

    def is_live(self) -> bool:
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.service.url}/livez").status_code == 200
        return False

    def say(self, *events: Any, then: Callable[[str], None] | None = None) -> None:
        """Claim the next job and log these events."""
        claim: Any = None
        while claim is None:
            claim = self.ledger.claim(0)
        job_id = claim.request.id
        self.publisher.open(job_id, claim.num_entries, claim.is_suspect)
        self.publisher.send([(job_id, event) for event in events])
        assert self.publisher.confirm() == {}
        if then is not None:
            then(job_id)
        self.publisher.close(job_id)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("swapped_out"))
    yield stage
    stage.service.stop()


def paused_and_answered(stage: Stage, reader: Reader) -> None:
    """The model is loaded, says the first half, leaves for another, comes back and says the rest."""
    events = log(TEXT)
    begun = events[: len(events) // 2]
    stage.table.change("b", status="loading", share=0.35, eta_s=2.0)
    reader.wait_for(": loading model=b progress=0.3 eta=2")
    stage.table.change("b", status="loaded")
    stage.say(*begun, then=stage.ledger.give_back)
    stage.table.change("b", status="warm", share=0.0, eta_s=7.0)
    reader.wait_for(": swapped out, model=b, eta=7")
    [job] = stage.service.http().get("/v1/jobs").json()["data"][:1]
    assert (job["state"], job["paused"], job["model_status"]) == ("queued", True, "warm")
    stage.table.change("b", status="loaded")
    stage.say(*events[len(begun) :])
    reader.join(20)
    assert not reader.is_alive()


def test_openais_client_gets_one_whole_answer_and_notices_nothing(stage: Stage) -> None:
    stage.table.change("b", status="cold", eta_s=12.5)
    parts: list[str] = []

    def ask() -> None:
        answer = stage.service.openai(max_retries=0).chat.completions.create(**ASKED)  # type: ignore[call-overload]
        parts.extend(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_until(lambda: stage.ledger.redis.zcard("omni:waiting:b") == 1, 20)
    events = log(TEXT)
    stage.say(*events[:3], then=stage.ledger.give_back)
    stage.say(*events[3:])
    asking.join(20)
    assert "".join(parts) == TEXT


def test_comments_say_where_the_model_is_also_in_the_middle_of_an_answer(stage: Stage) -> None:
    stage.table.change("b", status="cold", eta_s=12.5)
    reader = Reader(stage.service, "/v1/chat/completions", ASKED)
    reader.wait_for(": swapped out, model=b, eta=12")
    paused_and_answered(stage, reader)
    told = [line for line in reader.lines if line.startswith(":") and "queued" not in line]
    assert told == [
        ": swapped out, model=b, eta=12", ": loading model=b progress=0.3 eta=2", ": swapped out, model=b, eta=7",
    ]  # fmt: skip
    frames = [block for block in reader.text.split("\n\n") if block.startswith("data: ")]  # as the simplest client does
    assert "\n\n".join(frames) == without_comments(reader.text).rstrip("\n") and frames[-1] == "data: [DONE]"
    deltas = [json.loads(frame[6:])["choices"][0]["delta"] for frame in frames if frame.startswith("data: {")]
    assert "".join(delta.get("content") or "" for delta in deltas) == TEXT


def test_ollamas_lines_stay_lines_of_json(stage: Stage) -> None:
    stage.table.change("b", status="cold", eta_s=12.5)
    reader = Reader(stage.service, "/api/chat", ASKED)
    reader.wait_for("  ")
    events = log(TEXT)
    stage.say(*events[:3], then=stage.ledger.give_back)
    stage.say(*events[3:])
    reader.join(20)
    lines = [json.loads(line) for line in reader.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == TEXT and lines[-1]["done"]


def test_anthropics_events_stay_events(stage: Stage) -> None:
    stage.table.change("b", status="cold", eta_s=12.5)
    reader = Reader(stage.service, "/v1/messages", ASKED | {"max_tokens": 100})
    reader.wait_for(": swapped out, model=b")
    paused_and_answered(stage, reader)
    types = [line[7:] for line in reader.lines if line.startswith("event: ")]
    assert (types[0], types[-1]) == ("message_start", "message_stop")
    data = [json.loads(line[6:]) for line in reader.lines if line.startswith("data: ")]
    assert "".join(event["delta"].get("text", "") for event in data if event["type"] == "content_block_delta") == TEXT
