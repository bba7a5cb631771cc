"""A responses request as a chat request, and the fields that a response repeats."""

import orjson
import pytest

from api.chat.prepare import chat_input
from api.reading.choice import ParseOptions
from api.responses.chunks import ResponseChunks, ResponsesMeta
from api.responses.prepare import chat_request, echo_of, numbered_items, prepare, response_meta
from api.schema.parse import parse
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


def test_items_become_messages_and_an_assistants_turn_is_one(encoder):
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "1+1"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I add."}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    messages = chat_request(asked(input=items, instructions="Short."), []).messages
    assert [message.role for message in messages] == ["system", "developer", "user", "assistant", "tool"]
    assistant = messages[3]
    assert (assistant.reasoning_content, assistant.content) == ("hm", "I add.")
    assert assistant.tool_calls[0].id == messages[4].tool_call_id == "c"


def test_options_become_a_chat_requests(encoder):
    schema = {"type": "object", "properties": {}}
    chat = chat_request(
        asked(
            tools=[TOOL],
            tool_choice={"type": "function", "name": "add"},
            max_output_tokens=9,
            reasoning={"effort": "none"},
            text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
            include=["message.output_text.logprobs"],
            top_logprobs=2,
            temperature=0.5,
        ),
        [],
    )
    ready = chat_input(chat, encoder, GrammarCheck())
    assert ready.sampling.max_tokens == 9 and ready.sampling.logprobs == 2 and ready.sampling.temperature == 0.5
    assert '"const":"add"' in ready.sampling.grammar
    assert chat.reasoning_effort == "none" and chat.response_format.json_schema.schema_ == schema


def test_requests_of_coding_agents_are_understood(encoder):
    body = asked(
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
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        text={"verbosity": "low"},
        truncation="disabled",
        client_metadata={"a": "b"},
    )
    assert chat_input(chat_request(body, []), encoder, GrammarCheck()).prompt.ids


def test_a_response_continues_the_previous_one(encoder):
    said = folded(ResponseChunks(form(), encoder), log("Hello"))["output"]
    context = [{"id": "item_1", "type": "message", "role": "user", "content": "Hi"}, *said]
    own = [{"type": "item_reference", "id": "item_1"}, {"role": "user", "content": "And?"}]
    messages = chat_request(asked(input=own), context).messages
    assert [message.content for message in messages] == ["Hi", "Hello", "And?"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "add"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ],
)
def test_a_field_that_this_endpoint_cannot_honour_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_request(asked(**change), [])
    assert refused.value.param == param


def test_a_response_repeats_the_request_s_options():
    raw = {"model": "tiny", "input": "Hi", "temperature": 0.2, "tools": [TOOL], "metadata": {"a": "b"}}
    body = parse(ResponsesRequest, raw)
    echo = echo_of(body, raw)
    assert (echo["temperature"], echo["tools"], echo["metadata"]) == (0.2, [TOOL], {"a": "b"})
    assert (echo["top_p"], echo["tool_choice"], echo["reasoning"]) == (1.0, "auto", {"effort": None, "summary": None})
    [item] = numbered_items(body, raw, "resp_1")
    assert item == {
        "id": "item_1000",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hi"}],
    }


def test_a_response_keeps_what_its_schema_knows_and_nothing_else():
    ballast = {"ballast": "x" * 100_000}
    parts = [{"type": "input_text", "text": "Hi"} | ballast]
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    function = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
    raw = {
        "model": "tiny",
        "input": [{"role": "user", "content": [*parts, image]} | ballast, {"type": "item_reference", "id": "a"}],
        "tools": [function | ballast],
        "text": {"format": {"type": "text"}} | ballast,
        "reasoning": {"effort": "low"} | ballast,
        "tool_choice": {"type": "function", "name": "add"} | ballast,
        "truncation": False,
        "metadata": {"a": "b"},
    } | ballast
    form = response_meta(parse(ResponsesRequest, raw), raw, [], ParseOptions())
    assert b"ballast" not in orjson.dumps(form)
    [item] = form.input
    assert item["content"] == [{"type": "input_text", "text": "Hi"}, {k: image[k] for k in ("type", "image_url")}]
    assert (form.echo["tools"], form.echo["metadata"], form.echo["truncation"]) == ([function], {"a": "b"}, "disabled")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ("word " * 5000, "Shorten the input."),
        (
            [{"role": "user", "content": [{"type": "input_file"}]}],
            "'input': this model takes text only, not parts of type 'input_file'.",
        ),
    ],
)
def test_a_refusal_of_the_chat_s_messages_names_the_input(items, reason, encoder):
    with pytest.raises(InvalidRequest) as refused:
        prepare(call_of(ResponsesRequest, {"model": "tiny", "input": items}, encoder))
    assert refused.value.param == "input" and refused.value.message.endswith(reason)
