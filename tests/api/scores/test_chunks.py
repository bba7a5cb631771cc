"""A log of scores as a ranking, or as a list."""

import pytest

from api.embeddings.vectors import written
from api.scores.chunks import ScoreCompletion, ScoreMeta, rerank_endpoint
from common.wire import Delta, Event, Failed, Finished
from tests.api.cards import encoder
from tests.api.events import folded

LOG: list[Event] = [
    Delta(1, (), written([0.75])),
    Delta(0, (), written([-2.5])),
    Delta(2, (), written([0.75])),
    Finished(9, 0),
]
DOCUMENTS = ["zero", "one", "two"]


def meta(top_n: int | None = 3) -> ScoreMeta:
    return ScoreMeta(id="rerank-1", model="tiny", created=5, num_pairs=3, top_n=top_n)


def test_a_ranking_begins_with_the_best_and_keeps_the_order_of_equals() -> None:
    body = folded(rerank_endpoint(DOCUMENTS).completion(meta(), encoder()), LOG)
    assert body["results"] == [
        {"index": 1, "relevance_score": 0.75, "document": {"text": "one"}},
        {"index": 2, "relevance_score": 0.75, "document": {"text": "two"}},
        {"index": 0, "relevance_score": -2.5, "document": {"text": "zero"}},
    ]
    assert (body["id"], body["model"]) == ("rerank-1", "tiny")
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert body["meta"] == {"tokens": {"input_tokens": 9, "output_tokens": 0}}


def test_a_ranking_may_be_short_and_without_documents() -> None:
    body = folded(rerank_endpoint(None).completion(meta(top_n=1), encoder()), LOG)
    assert body["results"] == [{"index": 1, "relevance_score": 0.75}]


def test_scores_come_in_the_order_of_the_pairs() -> None:
    body = folded(ScoreCompletion(meta(None), encoder()), LOG)
    assert [(item["index"], item["object"], item["score"]) for item in body["data"]] == [
        (0, "score", -2.5), (1, "score", 0.75), (2, "score", 0.75),
    ]  # fmt: skip
    assert (body["object"], body["created"]) == ("list", 5)
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}


@pytest.mark.parametrize("top_n", [None, 3])
def test_a_failure_is_kept_for_the_error(top_n: int | None) -> None:
    failing = ScoreCompletion(meta(top_n), encoder())
    failing.feed(Failed("out_of_memory", "CUDA out of memory"))
    assert failing.failed == Failed("out_of_memory", "CUDA out of memory")
