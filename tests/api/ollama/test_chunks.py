"""Events as the objects of Ollama's API."""

import json
from dataclasses import replace

import pytest

from api.jobs.dialects import OLLAMA
from api.jobs.frames import Frames
from api.ollama.chunks import OllamaChunks, OllamaMeta, loaded
from api.reading.choice import ParseOptions
from common.errors import Restarting
from common.wire import Delta, Failed, Finished, TokenLogprob
from tests.api.events import fed, folded, log, spoken

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,))
CREATED_NS = 1_700_000_000_123_456_789
TIMES = ("total_duration", "prompt_eval_duration", "eval_duration")


def chunks(encoder, *, is_chat=True, **changes):
    fields = {"id": "ollama-1", "model": "tiny", "created": CREATED_NS // 10**9, "created_ns": CREATED_NS}
    return OllamaChunks(OllamaMeta(**fields | changes), encoder, is_chat=is_chat)


def timeless(item):
    return {name: value for name, value in item.items() if name not in TIMES}


HEAD = {"model": "tiny", "created_at": "2023-11-14T22:13:20.123456Z"}
END = {"done": True, "done_reason": "stop", "load_duration": 0, "prompt_eval_count": 7, "eval_count": 2}


def test_a_chat_is_messages_and_a_last_object_with_counts_and_durations(encoder):
    *said, last = fed(chunks(encoder), log("Hello!"))
    assert said == [
        HEAD | {"message": {"role": "assistant", "content": text}, "done": False} for text in ("Hel", "lo!")
    ]
    assert timeless(last) == HEAD | {"message": {"role": "assistant", "content": ""}} | END
    assert last["total_duration"] >= last["prompt_eval_duration"] > 0 and last["eval_duration"] > 0


def test_an_answer_that_is_read_after_its_end_keeps_its_time(encoder):
    *events, end = log("Hello!")
    last = fed(chunks(encoder), [*events, replace(end, ended=CREATED_NS // 10**9 + 2)])[-1]
    assert last["total_duration"] == 3 * 10**9 - CREATED_NS % 10**9
    assert "eval_duration" not in last and last["eval_count"] == 2


def test_a_text_has_no_message(encoder):
    *said, last = fed(chunks(encoder, is_chat=False), log("Hi"))
    assert said == [HEAD | {"response": "Hi", "done": False}]
    assert last["response"] == "" and last["done"]


def test_thinking_has_a_field_of_its_own(encoder):
    events = log("<think>Hm.</think>Four.", step=50)
    assert [item["message"] for item in fed(chunks(encoder), events)] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Four."},
        {"role": "assistant", "content": ""},
    ]
    whole = folded(chunks(encoder, is_chat=False), events)
    assert (whole["thinking"], whole["response"]) == ("Hm.", "Four.")


@pytest.mark.parametrize("step", [1, 5, 200])
def test_a_call_comes_in_one_piece_with_its_arguments_as_an_object(step, encoder):
    items = fed(chunks(encoder, reading=TOOLS), log("So:" + CALL + CALL, step=step))
    calls = [call for item in items for call in item["message"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "add", "arguments": {"a": 1}},
        {"index": 1, "name": "add", "arguments": {"a": 1}},
    ]
    assert len({call["id"] for call in calls}) == 2
    assert "".join(item["message"]["content"] for item in items).strip() == "So:"
    assert items[-1]["done_reason"] == "stop"
    whole = folded(chunks(encoder, reading=TOOLS), log("So:" + CALL + CALL, step=step))
    assert whole["message"]["tool_calls"] == calls


def test_a_call_that_is_cut_off_is_left_out(encoder):
    events = [*spoken(CALL[:-20], finish_reason="length"), Finished(7, 9)]
    items = fed(chunks(encoder, reading=TOOLS), events)
    assert not any("tool_calls" in item["message"] for item in items)
    assert items[-1]["done_reason"] == "length"


def test_a_raw_answer_is_not_parsed(encoder):
    items = fed(chunks(encoder, is_chat=False, is_raw=True), log("<think>Hm.</think>" + CALL))
    assert "".join(item["response"] for item in items) == "<think>Hm.</think>" + CALL


def test_a_folded_answer_is_the_stream_in_one_object(encoder):
    assert timeless(folded(chunks(encoder), log("Hello!"))) == HEAD | END | {
        "message": {"role": "assistant", "content": "Hello!"}
    }


def test_logprobs_come_with_the_text(encoder):
    likely = [
        Delta(0, (39,), "H", (TokenLogprob(39, -0.5, ((39, -0.5), (40, -1.5))),)),
        Delta(0, (72, 258), "i", (TokenLogprob(72, -0.25),), "stop"),
        Finished(7, 2),
    ]
    items = fed(chunks(encoder, logprobs=True), likely)
    first = items[0]["logprobs"][0]
    assert (first["logprob"], [top["logprob"] for top in first["top_logprobs"]]) == (-0.5, [-0.5, -1.5])
    assert folded(chunks(encoder, logprobs=True), likely)["logprobs"] == [
        entry for item in items[:2] for entry in item["logprobs"]
    ]


def test_a_stream_is_lines_of_json_in_which_an_error_is_a_line_too(encoder):
    frames = Frames(chunks(encoder), OLLAMA, with_ids=True)
    lines = frames.opening() + OLLAMA.notice("queued position=1 eta=0", is_block=True)
    for event in [Delta(0, (65,), "Ha"), Failed("out_of_memory", "CUDA out of memory")]:
        lines += frames.feed(event)
    lines += frames.closing(Restarting("Bye.")) + frames.ending()
    assert lines.endswith(b"\n") and b"\n\n" not in lines
    parsed = [json.loads(line) for line in lines.splitlines()]
    assert [line.get("error") for line in parsed] == [None, "CUDA out of memory", "Bye."]
    assert OLLAMA.headers["Content-Type"] == "application/x-ndjson"


def test_an_answer_to_nothing_says_that_the_model_is_loaded():
    assert loaded("tiny", is_chat=True, is_unloaded=False)["done_reason"] == "load"
    dropped = loaded("tiny", is_chat=False, is_unloaded=True)
    assert (dropped["done_reason"], dropped["response"], dropped["done"]) == ("unload", "", True)


@pytest.mark.parametrize("value", ["[" * 1500 + "]" * 1500, "9" * 5000])
def test_a_call_whose_arguments_cannot_be_read_is_no_call(value, encoder):
    call = f'<tool_call>\n{{"name": "add", "arguments": {{"a": {value}}}}}\n</tool_call>'
    body = folded(chunks(encoder, reading=TOOLS), log(call))
    assert "tool_calls" not in body["message"] and body["done_reason"] == "stop"
