"""A log as the events and the object of a response."""

import json
from dataclasses import replace

import pytest

from api.reading.choice import ParseOptions
from api.reading.pieces import CallPieces
from api.responses.chunks import ResponseChunks, ResponsesMeta
from common.wire import Delta, Failed, TokenLogprob
from tests.api.events import fed, folded, log, spoken

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def meta(**changes):
    fields = {"id": "resp_1", "model": "tiny", "created": 5, "store": True, "background": False}
    return ResponsesMeta(**fields | {"echo": {}, "input": [], "context": []} | changes)


def names(events):
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_is_streamed_in_openais_order(encoder):
    events = fed(ResponseChunks(meta(), encoder), log("Hello", step=4))
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


@pytest.mark.parametrize(
    ("finish_reason", "ended", "completed_at"), [("stop", 1764230, 1764230), ("stop", 0, None), ("length", 9, None)]
)
def test_a_completed_response_says_when_the_log_ended(encoder, finish_reason, ended, completed_at):
    [*deltas, end] = log("Hello", finish_reason=finish_reason)
    chunks = ResponseChunks(meta(), encoder)
    events = fed(chunks, [*deltas, replace(end, ended=ended)])
    assert events[0]["response"]["completed_at"] is None
    assert events[-1]["response"]["completed_at"] == completed_at == chunks.body()["completed_at"]


def test_thoughts_text_and_calls_are_items_of_their_own(encoder):
    text = f"<think>hm</think>I add.\n{CALL}\n{CALL}"
    events = fed(ResponseChunks(meta(reading=ParseOptions(tool_dialect="hermes")), encoder), log(text, step=2))
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
    streamed = fed(ResponseChunks(meta(reading=reading), encoder), events)
    assert folded(ResponseChunks(meta(reading=reading), encoder), events) == streamed[-1]["response"]


def test_an_answer_cut_off_is_incomplete(encoder):
    events = fed(ResponseChunks(meta(), encoder), log("Hel", finish_reason="length"))
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


def test_a_call_that_was_cut_off_is_never_said_to_be_done_and_not_in_the_output(encoder):
    events = log("I add." + CALL[: CALL.index("1}}")], finish_reason="length")
    said = fed(ResponseChunks(meta(reading=ParseOptions(tool_dialect="hermes")), encoder), events)
    assert names(said)[-2:] == ["function_call_arguments.delta", "incomplete"]
    assert [event["item"]["type"] for event in said if event["type"] == "response.output_item.done"] == ["message"]
    assert [item["type"] for item in said[-1]["response"]["output"]] == ["message"]
    failed = [*events[:-2], Failed("cancelled", "why")]
    said = fed(ResponseChunks(meta(reading=ParseOptions(tool_dialect="hermes")), encoder), failed)
    assert [item["type"] for item in said[-1]["response"]["output"]] == ["message"]


def test_a_whole_call_of_an_answer_that_was_cut_off_is_completed(encoder):
    events = log("I add." + CALL[: CALL.index("}}") + 2], finish_reason="length")
    said = fed(ResponseChunks(meta(reading=ParseOptions(tool_dialect="hermes")), encoder), events)
    response = said[-1]["response"]
    assert response["status"] == "incomplete"
    assert [(item["type"], item["status"]) for item in response["output"]] == [
        ("message", "completed"),
        ("function_call", "completed"),
    ]


@pytest.mark.parametrize(("code", "status"), [("out_of_memory", "failed"), ("cancelled", "cancelled")])
def test_a_failed_job_ends_the_stream_and_keeps_its_text(encoder, code, status):
    events = fed(ResponseChunks(meta(), encoder), [*spoken("Hello")[:1], Failed(code, "why")])
    assert names(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
    response = events[-1]["response"]
    assert response["status"] == status
    assert (response["error"] or {}).get("code") == ("server_error" if status == "failed" else None)
    assert response["output"][0]["content"][0]["text"] == "Hel"


def test_a_background_response_begins_queued(encoder):
    events = ResponseChunks(meta(background=True), encoder).opening()
    assert names(events) == ["created", "queued"]
    assert events[1]["response"]["status"] == "queued"


def test_an_empty_answer_still_has_a_message(encoder):
    response = folded(ResponseChunks(meta(), encoder), log(""))
    assert response["output"][0]["content"][0]["text"] == ""


def test_logprobs_come_with_their_text(encoder):
    events = [Delta(0, (72,), "H", (TokenLogprob(72, -0.1, ((72, -0.1),)),)), *log("i", step=1)]
    response = folded(ResponseChunks(meta(), encoder), events)
    assert [entry["logprob"] for entry in response["output"][0]["content"][0]["logprobs"]] == [-0.1]


def test_call_ids_follow_from_the_job(encoder):
    response = folded(ResponseChunks(meta(reading=ParseOptions(tool_dialect="hermes")), encoder), log(CALL))
    assert response["output"][0]["call_id"] == CallPieces("resp_1/0").start("add").id
