"""/v1/rerank and /v1/score end to end, by an embedder and by a cross-encoder that a second encoder worker serves."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.models import save_cross_encoder, save_encoder
from tests.service import RunningService

QUERY = "the quick brown fox"
DOCUMENTS = ["a stream of tokens", "jumps over", "äöü ß 你好 🙂 12345", "the lazy dog " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model") / "tiny-ranker")


@pytest.fixture(scope="module")
def http(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    embedder = save_encoder(tmp_path_factory.mktemp("model") / "tiny-bert")
    with RunningService(tmp_path_factory.mktemp("omni"), {"OMNI_EMBEDDING_MODEL": str(embedder)}) as service:
        service.env_of["reranker"] = {"OMNI_EMBEDDING_MODEL": str(folder)}
        service.start("redis", "api", "embedder", "reranker")
        deadline = time.monotonic() + 90
        while not all(answers(service, model) for model in ("tiny-bert", "tiny-ranker")):
            assert time.monotonic() < deadline, service.log()
            time.sleep(0.05)
        with service.http() as client:
            yield client


def answers(service: RunningService, model: str) -> bool:
    try:
        with service.http() as client:
            return client.post("/score", json={"model": model, "text_1": "a", "text_2": "b"}).status_code == 200
    except httpx2.ConnectError:
        return False


def rerank(http: httpx2.Client, path: str = "/v1/rerank", **body: Any) -> httpx2.Response:
    return http.post(path, json={"model": "tiny-ranker", "query": QUERY, "documents": DOCUMENTS} | body)


def test_a_cross_encoder_ranks_as_transformers_would(http: httpx2.Client, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = tokenizer([(QUERY, text) for text in DOCUMENTS], truncation=True, max_length=60, padding=True)
    with torch.inference_mode():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        own = torch.sigmoid(model(**read.convert_to_tensors("pt")).logits[:, 0])
    answer = rerank(http).json()
    assert [result["index"] for result in answer["results"]] == own.argsort(descending=True).tolist()
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(own[result["index"]].item(), abs=1e-5)
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert answer["model"] == "tiny-ranker" and answer["usage"]["total_tokens"] > 100
    given = {"model": "tiny-ranker", "queries": QUERY, "documents": DOCUMENTS, "truncate_prompt_tokens": -1}
    scores = http.post("/v1/score", json=given).json()["data"]
    assert [item["score"] for item in scores] == pytest.approx(own.tolist(), abs=1e-5)


def test_an_embedder_ranks_by_the_cosine_of_its_vectors(http: httpx2.Client) -> None:
    texts = [QUERY, *DOCUMENTS[:3]]
    embedded = http.post("/v1/embeddings", json={"model": "tiny-bert", "input": texts}).json()["data"]
    query, *others = (torch.tensor(item["embedding"]) for item in embedded)
    own = {index: torch.dot(query, vector).item() for index, vector in enumerate(others)}
    ranked = rerank(http, model="tiny-bert", documents=DOCUMENTS[:3], top_n=2).json()["results"]
    assert [result["index"] for result in ranked] == sorted(own, key=lambda index: -own[index])[:2]
    assert [result["relevance_score"] for result in ranked] == pytest.approx(sorted(own.values())[:0:-1], abs=1e-5)


def test_coheres_path_leaves_documents_out_unless_they_are_asked_for(http: httpx2.Client) -> None:
    assert "document" in rerank(http, "/rerank").json()["results"][0]
    assert "document" not in rerank(http, "/v2/rerank").json()["results"][0]
    assert "document" in rerank(http, "/v2/rerank", return_documents=True).json()["results"][0]
    assert "document" not in rerank(http, return_documents=False).json()["results"][0]


def test_a_repeated_request_gets_the_same_answer_from_the_same_job(http: httpx2.Client) -> None:
    body = {"model": "tiny-ranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    first, second = (http.post("/v1/rerank", json=body, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json() == second.json() and len(first.json()["results"]) == 2
    assert first.headers["Omni-Job-Id"] == second.headers["Omni-Job-Id"] == first.json()["id"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/embeddings", {"model": "tiny-ranker", "input": "a"}, 404, "is a cross-encoder"),
        ("/v1/score", {"model": "deepseek-v3.2", "text_1": "a", "text_2": "b"}, 503, "not ready"),
        ("/v1/score", {"model": "tiny-ranker", "text_1": "a", "text_2": "b " * 90}, 400, "this model takes 60"),
        ("/v1/rerank", {"model": "tiny-ranker", "query": "a"}, 400, "documents"),
    ],
)
def test_a_refusal_says_why(http: httpx2.Client, path: str, body: dict[str, Any], status: int, said: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status and said in answer.json()["error"]["message"], answer.text


def test_both_encoders_are_listed(http: httpx2.Client) -> None:
    assert {"tiny-bert", "tiny-ranker"} <= {model["id"] for model in http.get("/v1/models").json()["data"]}
