"""A rerank or score request as one job."""

from typing import Any

import pytest

from api.embeddings.prepare import KEPT_S
from api.request.submission import Prepared
from api.schema.embeddings import RerankRequest, ScoreRequest
from api.scores.chunks import ScoreMeta
from api.scores.prepare import prepare_rerank, prepare_score
from common.errors import ContextLengthExceeded, InvalidRequest
from tests.api.calls import call_of
from tests.api.scores.test_pairs import CROSS, EMBEDDER


def rerank(**body: Any) -> Prepared[ScoreMeta]:
    given = {"model": "tiny", "query": "q", "documents": ["a", "b"]} | body
    return prepare_rerank(call_of(RerankRequest, given, CROSS))


def score(**body: Any) -> Prepared[ScoreMeta]:
    return prepare_score(call_of(ScoreRequest, {"model": "tiny"} | body, CROSS))


def test_all_pairs_are_one_job_that_is_kept_for_a_short_time() -> None:
    ready = rerank(documents=["a", {"text": "bb", "title": "ignored"}], top_n=1, priority=3, timeout=5)
    [request] = ready.requests
    assert (request.input_lengths, request.second_starts, request.pairs) == ((5, 6), (3, 3), ())
    assert (ready.meta.id, ready.meta.num_pairs, ready.meta.top_n) == (request.id, 2, 1)
    assert (ready.options.priority, ready.options.timeout, ready.options.background) == (3, 5, False)
    assert (ready.kept_s, ready.vector_bytes) == (KEPT_S, 8)  # base64 of one float32


def test_an_embedder_gets_the_pairs_to_compare() -> None:
    given = {"model": "tiny", "query": "q", "documents": ["a", "b"]}
    [request] = prepare_rerank(call_of(RerankRequest, given, EMBEDDER)).requests
    assert (request.input_lengths, request.second_starts, request.pairs) == ((3, 3, 3), (), ((0, 1), (0, 2)))


def test_a_ranking_cuts_long_documents_and_a_score_refuses_them_unless_asked() -> None:
    assert rerank(documents=["a" * 50]).requests[0].input_lengths == (20,)
    assert rerank(documents=["a" * 50], max_tokens_per_doc=5).requests[0].input_lengths == (9,)
    assert rerank(documents=["a" * 50], truncate_prompt_tokens=11).requests[0].input_lengths == (11,)
    with pytest.raises(ContextLengthExceeded):
        score(text_1="q", text_2="a" * 50)
    assert score(text_1="q", text_2="a" * 50, truncate_prompt_tokens=-1).requests[0].input_lengths == (20,)


@pytest.mark.parametrize(("top_n", "listed"), [(None, 2), (0, 2), (1, 1), (9, 9)])
def test_top_n_of_nothing_or_zero_lists_all(top_n: int | None, listed: int) -> None:
    assert rerank(top_n=top_n).meta.top_n == listed


@pytest.mark.parametrize(
    ("body", "num_pairs"),
    [
        ({"text_1": "q", "text_2": "a"}, 1),
        ({"text_1": "q", "text_2": ["a", "b"]}, 2),
        ({"text_1": ["q", "r"], "text_2": ["a", "b"]}, 2),
        ({"queries": ["q"], "documents": ["a", "b", "c"]}, 3),
    ],
)
def test_texts_are_paired_one_with_all_or_each_with_its_own(body: dict[str, Any], num_pairs: int) -> None:
    ready = score(**body)
    assert (ready.meta.num_pairs, ready.meta.top_n, len(ready.requests[0].input_lengths)) == (
        num_pairs,
        None,
        num_pairs,
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": ["a", 7]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": "2"}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"use_activation": False}, "use_activation"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc"),
        ({"background": True}, "background"),
    ],
)
def test_a_ranking_that_cannot_be_made_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rerank(**body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text_1"),
        ({"text_2": "a"}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"queries": "a"}, "documents"),
        ({"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, "text_1"),
        ({"text_1": "q", "text_2": ["a", None]}, "text_2[1]"),
        ({"text_1": "q", "text_2": {"text": "a"}}, "text_2"),
    ],
)
def test_texts_that_make_no_pairs_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        score(**body)
    assert refused.value.param == param


def test_unknown_fields_and_labels_change_nothing() -> None:
    assert rerank(user="me", encoding_format="float", max_chunks_per_doc=1, rank_fields=["text"]).meta.num_pairs == 2
