"""The request model of /v1/chat/completions."""

import pytest

from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
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
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"function_call": "maybe", "functions": [{"name": "add"}]}, "function_call"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
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


@pytest.mark.parametrize(
    "change", [{"best_of": 1}, {"function_call": "none"}, {"function_call": "auto"}, {"echo": False}, {"functions": []}]
)
def test_a_harmless_value_of_an_unsupported_field_is_accepted(change):
    assert parse(ChatRequest, BODY | change)


def test_fields_without_effect_on_the_answer_are_accepted():
    harmless = {
        "store": True,
        "metadata": {"a": "b"},
        "user": "me",
        "safety_identifier": "me",
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


def parsed(**changes):
    return parse(ChatRequest, BODY | changes)


OPTIONAL = sorted(set(ChatRequest.model_fields) - {"model", "messages"})


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_is_as_good_as_leaving_a_field_out(name):
    assert parsed(**{name: None}) == parsed()


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": -1},
        {"max_completion_tokens": -1},
        {"stop": ""},
        {"stop": []},
        {"tools": []},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"messages": [{"role": "user", "content": ["Hi", {"type": "text", "text": "x", "cache_control": {}}]}]},
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(change):
    assert parsed(**change)


def test_an_empty_stop_string_is_none():
    assert parsed(stop="").stop == []


@pytest.mark.parametrize(("name", "sent"), [("max_tokens", 0), ("max_tokens", -2), ("max_completion_tokens", 0)])
def test_a_limit_that_leaves_nothing_is_refused(name, sent):
    with pytest.raises(InvalidRequest) as refused:
        parsed(**{name: sent})
    assert refused.value.param == name


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ("any", "required"),
        ("required", "required"),
    ],
)
def test_other_servers_forms_of_a_tool_choice_are_known(sent, meant):
    assert parsed(tool_choice=sent).tool_choice == meant


@pytest.mark.parametrize(
    "sent",
    [
        {"function": {"name": "add", "description": "d", "parameters": {"type": "object"}}},
        {"type": "function", "name": "add", "description": "d", "parameters": {"type": "object"}},
        {"name": "add", "description": "d", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "add", "description": "d", "input_schema": {"type": "object"}},
    ],
)
def test_other_servers_forms_of_a_tool_are_known(sent):
    [tool] = parsed(tools=[sent]).tools
    assert tool.model_dump(exclude_none=True) == {
        "type": "function",
        "function": {"name": "add", "description": "d", "parameters": {"type": "object"}},
    }


def test_a_call_that_a_client_put_together_itself_is_known():
    call = {"id": None, "type": None, "function": {"name": "add", "arguments": {"a": "ß"}}}
    empty = {"function": {"name": "add", "arguments": None}}
    message = parsed(messages=[{"role": "assistant", "tool_calls": [call, empty]}]).messages[0]
    assert [(call.id, call.type, call.function.arguments) for call in message.tool_calls] == [
        ("", "function", '{"a": "ß"}'),
        ("", "function", ""),
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": 1}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.allowed_tools.tools"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}, {"text": 1}]}]}, "messages[0].content[1].type"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ],
)
def test_a_refusal_names_the_field_as_it_was_sent(change, param):
    with pytest.raises(InvalidRequest) as refused:
        parsed(**change)
    assert refused.value.param == param and f"'{param}'" in refused.value.message


def test_functions_are_tools_of_which_one_is_called():
    function = {"name": "add", "parameters": {"type": "object"}}
    body = parsed(functions=[function], function_call={"name": "add"})
    assert body.tools[0].function.name == body.tool_choice.function.name == "add"
    assert body.has_old_calls and body.parallel_tool_calls is False
    assert not parsed(tools=[TOOL]).has_old_calls
    with pytest.raises(InvalidRequest):
        parse(CompletionRequest, {"model": "tiny", "prompt": "x", "functions": [function]})


def test_an_old_call_and_its_result_are_a_tool_s():
    call = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": "{}"}}
    result = {"role": "function", "name": "add", "content": "2"}
    called, done = parsed(messages=[call, result]).messages
    assert called.tool_calls[0].function.name == "add"
    assert (done.role, done.tool_call_id) == ("tool", called.tool_calls[0].id)


@pytest.mark.parametrize("kind", ["function", "custom", "tool"])
def test_a_flat_choice_of_a_tool_is_taken_as_flat_tools_are(kind):
    choice = parse(ChatRequest, BODY | {"tools": [TOOL], "tool_choice": {"type": kind, "name": "add"}}).tool_choice
    assert choice.function.name == "add"
