"""Every request model, given random bodies: each is parsed, or refused with its field named."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingRequest
from api.schema.messages import CountRequest, MessagesRequest
from api.schema.ollama import OllamaChatRequest, OllamaEmbedRequest, OllamaGenerateRequest, OllamaModelRequest
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from api.schema.tokens import DetokenizeRequest, TokenizeRequest
from common.errors import InvalidRequest

MODELS = (
    ChatRequest, CompletionRequest, ResponsesRequest, MessagesRequest, CountRequest, TokenizeRequest, DetokenizeRequest,
    EmbeddingRequest, OllamaChatRequest, OllamaGenerateRequest, OllamaEmbedRequest, OllamaModelRequest,
)  # fmt: skip
SEEDS: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "prompt": "Hi",
    "input": "Hi",
    "max_tokens": 5,
    "tokens": [1],
}
WORDS = (
    "role",
    "content",
    "type",
    "text",
    "function",
    "name",
    "arguments",
    "user",
    "tool",
    "auto",
    "json_schema",
    "schema",
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def names_of(model: type[BaseModel]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def good_body(model: type[BaseModel]) -> dict[str, Any]:
    unwanted = {*getattr(model, "refused", {}), *(["messages"] if model is TokenizeRequest else [])}
    return {name: value for name, value in SEEDS.items() if name in names_of(model) and name not in unwanted}


@pytest.mark.parametrize("model", MODELS)
def test_every_body_is_accepted_or_refused_with_its_field_named(model: type[BaseModel]) -> None:
    names = names_of(model)

    @settings(max_examples=40, database=None)
    @given(st.dictionaries(st.sampled_from(names) | st.text(max_size=6), values, max_size=4))
    def check(changes: dict[str, Any]) -> None:
        body = good_body(model) | changes
        try:
            parsed = parse(model, body)
        except InvalidRequest as refused:
            assert refused.param is not None and len(refused.message) < 4000
        else:
            assert parsed == model.model_validate(body)

    check()


@pytest.mark.parametrize("model", MODELS)
def test_a_parsed_request_parses_to_itself(model: type[BaseModel]) -> None:
    parsed = parse(model, good_body(model))
    assert parse(model, parsed.model_dump(by_alias=True, exclude_none=True)) == parsed


@pytest.mark.parametrize(
    ("model", "changes", "param", "reason"),
    [
        (CompletionRequest, {"prompt": [-1]}, "prompt[0][0]", "greater than or equal to 0"),
        (CompletionRequest, {"prompt": ["a", 1]}, "prompt[1]", "must be a string"),
        (EmbeddingRequest, {"input": []}, "input", "must have 1 or more items"),
        (ResponsesRequest, {"input": 1}, "input", "must be a string or a list"),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 4097}]},
            "messages[0].content",
            "4096 items at most",
        ),
    ],
)
def test_a_refusal_is_about_the_form_that_was_meant(
    model: type[BaseModel], changes: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(model, good_body(model) | changes)
    assert refused.value.param == param and reason in refused.value.message
