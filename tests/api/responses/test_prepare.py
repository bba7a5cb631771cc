"""A responses request as a chat request, and the fields that a response repeats."""

import orjson
import pytest

from api.chat.prepare import chat_input
from api.responses.chunks import ResponseChunks, ResponsesMeta
from api.responses.history import numbered_items, turn_of
from api.responses.prepare import chat_request, echo_of, prepare
from api.responses.tools import offered_tools
from api.schema.parse import parse
from api.schema.response_items import StoredItems
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from tests.api.calls import call_of
from tests.api.events import folded, log

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def form(**changes):
    fields = {"id": "resp_1", "model": "tiny", "created": 5, "store": True, "background": False}
    return ResponsesMeta(**fields | {"echo": {}, "input": [], "context": []} | changes)


def asked(**body):
    return parse(ResponsesRequest, {"model": "tiny", "input": "Hi"} | body)


def as_chat(context=(), **body):
    """The chat request for a body, with the items of the responses before it."""
    request = asked(**body)
    said = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else body["input"]
    items = StoredItems(items=[*context, *said]).items
    return chat_request(request, items, offered_tools(request.tools or (), items))


def sent(encoder, **body):
    call = call_of(ResponsesRequest, {"model": "tiny", "input": "Hi"} | body, encoder)
    return prepare(call, turn_of(call))


def test_items_become_messages_and_an_assistants_turn_is_one(encoder):
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "1+1"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I add."}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    messages = as_chat(input=items, instructions="Short.").messages
    assert [message.role for message in messages] == ["system", "developer", "user", "assistant", "tool"]
    assistant = messages[3]
    assert (assistant.reasoning_content, assistant.content) == ("hm", "I add.")
    assert assistant.tool_calls[0].id == messages[4].tool_call_id == "c"


def test_options_become_a_chat_requests(encoder):
    schema = {"type": "object", "properties": {}}
    chat = as_chat(
        tools=[TOOL],
        tool_choice={"type": "function", "name": "add"},
        max_output_tokens=9,
        reasoning={"effort": "none"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        temperature=0.5,
    )
    ready = chat_input(chat, encoder, GrammarCheck())
    assert ready.sampling.max_tokens == 9 and ready.sampling.logprobs == 2 and ready.sampling.temperature == 0.5
    assert '"const":"add"' in ready.sampling.grammar
    assert chat.reasoning_effort == "none" and chat.response_format.json_schema.schema_ == schema


def test_requests_of_coding_agents_are_understood(encoder):
    ready = sent(
        encoder,
        instructions="You are an agent.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": None},
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c",
                "name": "add",
                "arguments": "{}",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "c", "output": "2"},
        ],
        tools=[TOOL | {"strict": False}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "ultra", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        text={"verbosity": "low"},
        truncation="disabled",
        client_metadata={"a": "b"},
    )
    assert ready.requests[0].prompt_ids


def test_a_response_continues_the_previous_one(encoder):
    said = folded(ResponseChunks(form(), encoder), log("Hello"))["output"]
    context = [{"id": "item_1", "type": "message", "role": "user", "content": "Hi"}, *said]
    messages = as_chat(context, input=[{"role": "user", "content": "And?"}]).messages
    assert [message.content for message in messages] == ["Hi", "Hello", "And?"]


def test_an_answer_may_take_what_the_context_holds_unless_a_limit_is_sent(encoder):
    [whole], [limited] = sent(encoder).requests, sent(encoder, max_output_tokens=9).requests
    assert len(whole.prompt_ids) + whole.sampling.max_tokens == encoder.card.max_model_len
    assert limited.sampling.max_tokens == 9


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call", "name": "add"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input[0].role"),
        ({"input": [{"type": "compaction_trigger"}]}, "input"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input"),
        ({"tools": [{"name": "add"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "grammar"}}]}, "tools"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": 5}}, "tool_choice.name"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "always"}, "truncation"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ],
)
def test_a_field_that_this_endpoint_cannot_honour_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        as_chat(**change)
    assert refused.value.param == param


def test_a_response_repeats_the_request_s_options():
    raw = {"model": "tiny", "input": "Hi", "temperature": 0.2, "tools": [TOOL], "metadata": {"a": "b"}}
    echo = echo_of(parse(ResponsesRequest, raw), raw, "flex")
    assert (echo["temperature"], echo["metadata"]) == (0.2, {"a": "b"})
    assert echo["tools"] == [TOOL | {"description": None, "strict": None}]
    assert (echo["top_p"], echo["tool_choice"], echo["reasoning"]) == (1.0, "auto", {"effort": None, "summary": None})
    [item] = numbered_items([{"role": "user", "content": "Hi"}], "resp_1")
    assert item == {"id": "item_1000", "type": "message", "role": "user", "content": "Hi"}


def test_labels_are_repeated_and_the_service_tier_is_the_one_that_served():
    raw = {
        "model": "tiny",
        "input": "Hi",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "flex",
        "text": {"verbosity": "low"},
        "max_tool_calls": 3,
    }
    echo = echo_of(parse(ResponsesRequest, raw), raw, "flex")
    assert (echo["prompt_cache_key"], echo["safety_identifier"], echo["service_tier"]) == ("k", "s", "flex")
    assert echo["text"] == {"format": {"type": "text"}, "verbosity": "low"} and echo["max_tool_calls"] == 3


def test_a_response_keeps_what_its_schema_knows_and_nothing_else(encoder):
    ballast = {"ballast": "x" * 100_000}
    function = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
    raw = {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"} | ballast]} | ballast,
            {"type": "image_generation_call", "id": "ig_1", "result": ballast},
        ],
        "tools": [function | ballast, {"type": "web_search"} | ballast],
        "text": {"format": {"type": "text"}} | ballast,
        "reasoning": {"effort": "low"} | ballast,
        "tool_choice": {"type": "function", "name": "add"} | ballast,
        "metadata": {"a": "b"},
    } | ballast
    form = sent(encoder, **raw).meta
    assert b"ballast" not in orjson.dumps(form)
    assert form.input[0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert (form.echo["tools"][0]["name"], form.echo["metadata"]) == ("add", {"a": "b"})


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ("word " * 5000, "Shorten 'input'."),
        (
            [{"role": "user", "content": [{"type": "input_file"}]}],
            "'input': this model takes text only, not parts of type 'input_file'.",
        ),
    ],
)
def test_a_refusal_of_the_chat_s_messages_names_the_input(items, reason, encoder):
    with pytest.raises(InvalidRequest) as refused:
        sent(encoder, input=items)
    assert refused.value.param == "input" and refused.value.message.endswith(reason)


def test_an_empty_id_continues_nothing():
    assert asked(previous_response_id="").previous_response_id is None
