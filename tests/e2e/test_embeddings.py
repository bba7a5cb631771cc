"""/v1/embeddings end to end: a job like any other, with OpenAI's answer."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.models import save_encoder
from tests.service import RunningService

WORDS = ["the quick brown fox", "a stream of tokens, one at a time, " * 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("model") / "tiny-bert")


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("omni"), {"OMNI_EMBEDDING_MODEL": str(folder)}) as service:
        service.start("redis", "api", "embedder")
        deadline = time.monotonic() + 60
        while embed(service).status_code != 200:
            assert time.monotonic() < deadline, service.log()
            time.sleep(0.05)
        yield service


@pytest.fixture
def client(running: RunningService) -> openai.OpenAI:
    return running.openai(max_retries=0)


def embed(service: RunningService, **body: Any) -> httpx2.Response:
    try:
        with service.http() as http:
            return http.post("/v1/embeddings", json={"model": "tiny-bert", "input": "a"} | body)
    except httpx2.ConnectError:
        return httpx2.Response(503)


def expected(folder: Path, text: str) -> list[float]:
    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        mean = AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state[0].mean(0)
    return [float(value) for value in mean / mean.norm()]


def test_texts_are_embedded_as_transformers_would(client: openai.OpenAI, folder: Path) -> None:
    answer = client.embeddings.create(model="tiny-bert", input=WORDS)
    assert [item.index for item in answer.data] == [0, 1] and answer.model == "tiny-bert"
    for item, text in zip(answer.data, WORDS, strict=True):
        assert item.embedding == pytest.approx(expected(folder, text), abs=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 20


def test_both_encodings_hold_the_same_vector_and_dimensions_cut_to_unit_length(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="tiny-bert", input=WORDS[0], encoding_format="float").data[0].embedding
    assert client.embeddings.create(model="tiny-bert", input=WORDS[0]).data[0].embedding == whole  # asks for base64
    short = client.embeddings.create(model="tiny-bert", input=WORDS[0], dimensions=4).data[0].embedding
    assert len(short) == 4 and math.hypot(*short) == pytest.approx(1, abs=1e-6)
    assert short[0] / short[1] == pytest.approx(whole[0] / whole[1], rel=1e-4)


def test_token_ids_are_embedded_unchanged(client: openai.OpenAI, running: RunningService) -> None:
    with running.http() as http:
        ids = http.post("/tokenize", json={"model": "tiny-bert", "prompt": WORDS[0]}).json()["tokens"]
    by_text = client.embeddings.create(model="tiny-bert", input=WORDS[0]).data[0].embedding
    for form in (ids, [ids]):
        assert client.embeddings.create(model="tiny-bert", input=form).data[0].embedding == by_text


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": ""}, 400, "input[0]"),
        ({"input": []}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": "word " * 200}, 400, "input"),
        ({"input": [[999_999]]}, 400, "input"),
        ({"dimensions": 33}, 400, "dimensions"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"background": True}, 400, "background"),
        ({"model": "gpt-4o"}, 404, "model"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_refused_by_name(
    running: RunningService, change: dict[str, Any], status: int, param: str
) -> None:
    answer = embed(running, **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_an_encoder_does_not_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings only"):
        client.chat.completions.create(model="tiny-bert", messages=[{"role": "user", "content": "Hi"}])
    assert "tiny-bert" in [model.id for model in client.models.list()]


def test_a_request_outlives_its_worker_and_ends_with_its_caller(running: RunningService) -> None:
    process = running.processes["embedder"]
    process.terminate()
    process.wait(10)
    answers: list[httpx2.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(embed(running, input=WORDS)))
    waiting.start()
    with running.http() as http, pytest.raises(httpx2.ReadTimeout):
        http.post("/v1/embeddings", json={"model": "tiny-bert", "input": "gone"}, timeout=0.5)
    running.spawn("embedder")
    waiting.join(60)
    assert answers[0].status_code == 200 and len(answers[0].json()["data"]) == 2
    with running.http() as http:
        states = [job["state"] for job in http.get("/v1/jobs").json()["data"]]
    assert states.count("cancelled") == 1 and set(states) == {"finished", "cancelled"}


def test_a_repeated_idempotency_key_gives_the_same_answer(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "vectors"}
    raw = client.embeddings.with_raw_response
    answers = [raw.create(model="tiny-bert", input=WORDS, extra_headers=headers) for _ in range(2)]
    assert answers[0].headers["Omni-Job-Id"] == answers[1].headers["Omni-Job-Id"]
    assert answers[0].parse().data == answers[1].parse().data
