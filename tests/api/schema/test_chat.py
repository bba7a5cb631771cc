"""The request model of /v1/chat/completions."""

import pytest

from api.schema.chat import ChatRequest
from api.schema.parse import parse
from api.schema.unsupported import CHAT
from common.errors import InvalidRequest

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_value_is_refused_and_its_field_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        parse(ChatRequest, BODY | change)
    assert refused.value.param == param


@pytest.mark.parametrize("name", sorted(CHAT))
def test_an_unsupported_field_is_refused_by_name(name):
    with pytest.raises(InvalidRequest, match=f"'{name}' is") as refused:
        parse(ChatRequest, BODY | {name: "something"})
    assert refused.value.param == name
    parse(ChatRequest, BODY | {name: None})


@pytest.mark.parametrize("change", [{"best_of": 1}, {"function_call": "none"}, {"echo": False}, {"functions": []}])
def test_a_harmless_value_of_an_unsupported_field_is_accepted(change):
    assert parse(ChatRequest, BODY | change)


def test_fields_without_effect_on_the_answer_are_accepted():
    harmless = {
        "store": True,
        "metadata": {"a": "b"},
        "user": "me",
        "safety_identifier": "me",
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "an_unknown_field": 1,
    }
    assert parse(ChatRequest, BODY | harmless).stream_options.include_usage


def test_an_assistants_message_is_accepted_as_input():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    said = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning": "hm",
        "tool_calls": [call],
        "audio": None,
    }
    request = parse(ChatRequest, BODY | {"messages": [said, {"role": "tool", "tool_call_id": "1", "content": "2"}]})
    assert request.messages[0].tool_calls[0].function.name == "add"


@pytest.mark.parametrize("field", ["repetition_penalty", "timeout"])
def test_a_value_that_the_engine_would_round_to_zero_is_refused(field):
    with pytest.raises(InvalidRequest) as refused:
        parse(ChatRequest, BODY | {field: 1e-320})
    assert refused.value.param == field
