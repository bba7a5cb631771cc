"""The inputs of an embedding request as one job."""

from typing import Any

import pytest

from api.embeddings.chunks import EmbeddingMeta
from api.embeddings.prepare import KEPT_S, prepare
from api.request.submission import Prepared
from api.schema.embeddings import EmbeddingRequest
from common.errors import ContextLengthExceeded, InvalidRequest
from tests.api.calls import call_of
from tests.api.cards import encoder

TINY = encoder(num_dimensions=4)
A, B = TINY.token_id("a"), TINY.token_id("b")


def prepared(**body: Any) -> Prepared[EmbeddingMeta]:
    return prepare(call_of(EmbeddingRequest, {"model": "tiny"} | body, TINY))


def test_all_inputs_are_one_job_that_is_kept_for_a_short_time() -> None:
    ready = prepared(input=["a", "bb"], priority=3, timeout=5)
    [request] = ready.requests
    assert (request.prompt_ids, request.input_lengths) == ((A, B, B), (1, 2))
    assert (ready.meta.id, ready.meta.num_inputs) == (request.id, 2)
    assert (ready.options.priority, ready.options.timeout, ready.options.background) == (3, 5, False)
    assert (ready.kept_s, ready.vector_bytes) == (KEPT_S, 24)  # base64 of four float32


@pytest.mark.parametrize("inputs", ["a", [A], ["a"], [[A]]])
def test_a_single_input_may_be_text_or_ids(inputs: Any) -> None:
    [request] = prepared(input=inputs).requests
    assert (request.prompt_ids, request.input_lengths) == ((A,), (1,))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [10**6]}, "input"),
        ({"input": "a", "dimensions": 5}, "dimensions"),
        ({"input": [""]}, "input[0]"),
        ({"input": "a", "background": True}, "background"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepared(**body)
    assert refused.value.param == param


def test_an_input_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        prepared(input=["a", "a" * 101])
