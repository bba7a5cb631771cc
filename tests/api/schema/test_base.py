"""Notes that callers put on a request are bounded on every endpoint."""

import pytest

from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingRequest
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest

TALK = {"messages": [{"role": "user", "content": "Hi"}]}
BODIES = {
    ChatRequest: TALK,
    CompletionRequest: {"prompt": "Hi"},
    ResponsesRequest: {"input": "Hi"},
    EmbeddingRequest: {"input": "Hi"},
}
MOST = {
    "metadata": {f"{number:064}": "x" * 512 for number in range(16)},
    "user": "x" * 512,
    "safety_identifier": "x" * 128,
    "prompt_cache_key": "x" * 512,
}
TOO_MUCH = [
    ({str(number): "x" for number in range(17)}, "metadata"),
    ({"a": "x" * 513}, "metadata.a"),
    ({"a" * 65: "x"}, f"metadata.{'a' * 64}"),
    ({"a": {"b": "c"}}, "metadata.a"),
]


@pytest.mark.parametrize("model", BODIES)
def test_fields_that_openai_allows_are_accepted(model):
    assert parse(model, {"model": "tiny"} | BODIES[model] | MOST)


@pytest.mark.parametrize("model", BODIES)
@pytest.mark.parametrize(("metadata", "param"), TOO_MUCH)
def test_more_metadata_is_refused_and_named(model, metadata, param):
    with pytest.raises(InvalidRequest) as refused:
        parse(model, {"model": "tiny", "metadata": metadata} | BODIES[model])
    assert refused.value.param == param
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("model", BODIES)
@pytest.mark.parametrize("name", ["user", "safety_identifier", "prompt_cache_key"])
def test_longer_names_are_refused_and_named(model, name):
    with pytest.raises(InvalidRequest, match=f"'{name}' must have .* characters at most") as refused:
        parse(model, {"model": "tiny", name: MOST[name] + "x"} | BODIES[model])
    assert refused.value.param == name


def test_anthropics_user_id_is_bounded_and_the_rest_of_its_metadata_dropped():
    body = {"model": "tiny", "max_tokens": 1} | TALK
    assert parse(MessagesRequest, body | {"metadata": {"user_id": "x" * 512, "other": ["x"]}})
    with pytest.raises(InvalidRequest) as refused:
        parse(MessagesRequest, body | {"metadata": {"user_id": "x" * 513}})
    assert refused.value.param == "metadata.user_id"


@pytest.mark.parametrize(
    "change",
    [
        {"max_tool_calls": "x"},
        {"reasoning": {"summary": "x" * 65}},
        {"text": {"verbosity": "x" * 65}},
        {"input": [{"role": "user", "content": "Hi", "id": "x" * 257}]},
    ],
)
def test_the_words_that_a_response_repeats_are_short(change):
    with pytest.raises(InvalidRequest):
        parse(ResponsesRequest, {"model": "tiny", "input": "Hi"} | change)
