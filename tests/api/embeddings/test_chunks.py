"""A log of vectors as OpenAI's list of embeddings."""

from typing import Any

import orjson
import pytest

from api.embeddings.chunks import EmbeddingCompletion, EmbeddingMeta
from api.embeddings.vectors import numbers, written
from common.wire import Delta, Event, Failed, Finished
from tests.api.cards import encoder
from tests.api.events import folded

VECTORS = [[1.0, 0.0, 0.0], [0.0, 3.0, 4.0]]
LOG: list[Event] = [Delta(1, (), written(VECTORS[1])), Delta(0, (), written(VECTORS[0])), Finished(5, 0)]


def completion(**changes: Any) -> EmbeddingCompletion:
    fields = {"id": "embd-1", "model": "tiny", "created": 5, "num_inputs": 2, "encoding_format": "float"}
    return EmbeddingCompletion(EmbeddingMeta(**fields | {"dimensions": None} | changes), encoder())


def vectors(body: dict[str, Any]) -> list[Any]:
    return [item["embedding"] for item in orjson.loads(orjson.dumps(body))["data"]]


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    body = folded(completion(), LOG)
    assert vectors(body) == VECTORS
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_base64_is_passed_on() -> None:
    assert [numbers(vector) for vector in vectors(folded(completion(encoding_format="base64"), LOG))] == VECTORS


def test_a_shortened_vector_has_length_one() -> None:
    assert vectors(folded(completion(dimensions=2), LOG))[1] == pytest.approx([0.0, 1.0])


def test_a_failure_is_kept_for_the_error() -> None:
    failing = completion()
    failing.feed(Failed("out_of_memory", "CUDA out of memory"))
    assert failing.failed == Failed("out_of_memory", "CUDA out of memory")
