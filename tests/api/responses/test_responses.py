import json

import pytest

from api.chat.prepare import chat_input
from api.reading.choice import ParseOptions
from api.reading.pieces import CallPieces
from api.responses.chunks import ResponseChunks, ResponsesMeta
from api.responses.prepare import chat_request, echo_of, numbered_items
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from common.wire import Delta, Failed, TokenLogprob
from tests.api.events import fed, folded, log, spoken

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def form(**changes):
    fields = {"id": "resp_1", "model": "tiny", "created": 5, "store": True, "background": False}
    return ResponsesMeta(**fields | {"echo": {}, "input": [], "context": []} | changes)


def names(events):
    return [event["type"].removeprefix("response.") for event in events]


def asked(**body):
    return parse(ResponsesRequest, {"model": "tiny", "input": "Hi"} | body)


def test_a_text_is_streamed_in_openais_order(encoder):
    events = fed(ResponseChunks(form(), encoder), log("Hello", step=4))
    assert names(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == [] and events[2]["item"]["status"] == "in_progress"
    assert events[-4]["text"] == "Hello" == events[-1]["response"]["output"][0]["content"][0]["text"]
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }


def test_thoughts_text_and_calls_are_items_of_their_own(encoder):
    text = f"<think>hm</think>I add.\n{CALL}\n{CALL}"
    events = fed(ResponseChunks(form(reading=ParseOptions(tool_dialect="hermes")), encoder), log(text, step=2))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert output[1]["content"][0]["text"] == "I add."
    assert [json.loads(item["arguments"]) for item in output[2:]] == [{"a": 1}] * 2
    assert output[2]["call_id"] != output[3]["call_id"] and output[2]["id"].startswith("fc_")
    assert {item["status"] for item in output} == {"completed"}
    for index, item in enumerate(output):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added" and own[-1]["item"] == item
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


def test_the_folded_response_is_the_streams_last_one(encoder):
    events = log(f"<think>hm</think>{CALL}")
    reading = ParseOptions(tool_dialect="hermes")
    streamed = fed(ResponseChunks(form(reading=reading), encoder), events)
    assert folded(ResponseChunks(form(reading=reading), encoder), events) == streamed[-1]["response"]


def test_an_answer_cut_off_is_incomplete(encoder):
    events = fed(ResponseChunks(form(), encoder), log("Hel", finish_reason="length"))
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


def test_a_call_that_was_cut_off_is_incomplete_and_not_in_the_output(encoder):
    events = log("I add." + CALL[: CALL.index("1}}")], finish_reason="length")
    said = fed(ResponseChunks(form(reading=ParseOptions(tool_dialect="hermes")), encoder), events)
    assert "function_call_arguments.done" not in names(said)
    assert said[-2]["item"]["type"] == "function_call" and said[-2]["item"]["status"] == "incomplete"
    assert said[-1]["type"] == "response.incomplete"
    assert [item["type"] for item in said[-1]["response"]["output"]] == ["message"]
    failed = [*events[:-2], Failed("cancelled", "why")]
    said = fed(ResponseChunks(form(reading=ParseOptions(tool_dialect="hermes")), encoder), failed)
    assert [item["type"] for item in said[-1]["response"]["output"]] == ["message"]


@pytest.mark.parametrize(("code", "status"), [("out_of_memory", "failed"), ("cancelled", "cancelled")])
def test_a_job_that_failed_ends_the_stream_and_keeps_what_was_said(encoder, code, status):
    events = fed(ResponseChunks(form(), encoder), [*spoken("Hello")[:1], Failed(code, "why")])
    assert names(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
    response = events[-1]["response"]
    assert response["status"] == status
    assert (response["error"] or {}).get("code") == ("server_error" if status == "failed" else None)
    assert response["output"][0]["content"][0]["text"] == "Hel"


def test_a_background_response_begins_in_the_line(encoder):
    events = ResponseChunks(form(background=True), encoder).opening()
    assert names(events) == ["created", "queued"]
    assert events[1]["response"]["status"] == "queued"


def test_an_empty_answer_still_has_a_message(encoder):
    response = folded(ResponseChunks(form(), encoder), log(""))
    assert response["output"][0]["content"][0]["text"] == ""


def test_logprobs_stand_with_the_text(encoder):
    events = [Delta(0, (72,), "H", (TokenLogprob(72, -0.1, ((72, -0.1),)),)), *log("i", step=1)]
    response = folded(ResponseChunks(form(), encoder), events)
    assert [entry["logprob"] for entry in response["output"][0]["content"][0]["logprobs"]] == [-0.1]


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


def test_what_coding_agents_send_is_understood(encoder):
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


def test_a_response_goes_on_from_the_one_before(encoder):
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
def test_what_this_endpoint_cannot_do_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_request(asked(**change), [])
    assert refused.value.param == param


def test_a_response_repeats_what_was_asked():
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


def test_call_ids_follow_from_the_job(encoder):
    response = folded(ResponseChunks(form(reading=ParseOptions(tool_dialect="hermes")), encoder), log(CALL))
    assert response["output"][0]["call_id"] == CallPieces("resp_1/0").start("add").id
