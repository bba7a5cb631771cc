"""A log as Anthropic's stream and message."""

from dataclasses import replace

import pytest

from api.messages.chunks import MessageChunks, MessageMeta
from api.reading.choice import ParseOptions
from common.wire import Delta, Failed, Finished
from tests.api.events import fed, folded, log

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,))


def meta(**changes):
    fields = {"id": "msg_1", "model": "tiny", "created": 5, "num_prompt_tokens": 7, "stop": [], "reading": TOOLS}
    return MessageMeta(**fields | changes)


def test_a_text_is_streamed_in_anthropics_order(encoder):
    events = fed(MessageChunks(meta(), encoder), log("Hello", step=5))
    assert events == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "tiny",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 7, "output_tokens": 0, "service_tier": "standard"},
            },
        },
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 0,
                "output_tokens": 1,
                "output_tokens_details": {"thinking_tokens": 0},
            },
        },
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_thoughts_text_and_calls_are_blocks_of_their_own(encoder, step):
    events = log(f"<think>hm</think>I add.\n{CALL}", step=step)
    message = folded(MessageChunks(meta(), encoder), events)
    thinking, text, call = message["content"]
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert text == {"type": "text", "text": "I add."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "add", {"a": 1})
    assert 0 < message["usage"]["output_tokens_details"]["thinking_tokens"] <= message["usage"]["output_tokens"]
    assert call["id"].startswith("toolu_") and message["stop_reason"] == "tool_use"
    said = fed(MessageChunks(meta(), encoder), events)
    deltas = [event["delta"] for event in said if event["type"] == "content_block_delta"]
    assert "".join(delta.get("partial_json", "") for delta in deltas) == '{"a": 1}'
    assert [event["index"] for event in said if event["type"] == "content_block_start"] == [0, 1, 2]


def test_the_stop_sequence_that_ended_the_text_is_named(encoder):
    ids = encoder.tokenize("a STOP")
    events = [Delta(0, tuple(ids), "a ", finish_reason="stop"), Finished(7, 6)]
    message = folded(MessageChunks(meta(stop=["never", "STOP"]), encoder), events)
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")
    assert message["content"][0]["text"] == "a "


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop_sequence"), ("length", "max_tokens")])
def test_an_incomplete_call_is_no_block_of_the_message(encoder, reason, told):
    *begun, last, end = log("I add." + CALL[: CALL.index("1}}")])
    events = [*begun, replace(last, token_ids=(65,), finish_reason=reason), end]
    stop = [encoder.decode([65])]
    said = fed(MessageChunks(meta(stop=stop), encoder), events)
    assert said[-2]["delta"]["stop_reason"] == told
    message = folded(MessageChunks(meta(stop=stop), encoder), events)
    assert (message["content"], message["stop_reason"]) == ([{"type": "text", "text": "I add."}], told)
    only_call = folded(MessageChunks(meta(), encoder), log(CALL[:44], finish_reason="length"))
    assert only_call["content"] == [{"type": "text", "text": ""}]


def test_the_length_limit_is_the_stop_reason(encoder):
    message = folded(MessageChunks(meta(stop=["x"]), encoder), log("Hel", finish_reason="length"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)


def test_a_failure_is_no_chunk(encoder):
    completion = MessageChunks(meta(), encoder)
    completion.feed(Failed("out_of_memory", "CUDA out of memory"))
    assert completion.failed is not None


def test_a_call_whose_arguments_cannot_be_read_is_not_handed_out_with_others(encoder):
    call = f'<tool_call>\n{{"name": "add", "arguments": {{"a": {"[" * 150 + "]" * 150}}}}}\n</tool_call>'
    body = folded(MessageChunks(meta(reading=TOOLS), encoder), log(call))
    assert body["content"] == [{"type": "text", "text": ""}] and body["stop_reason"] == "end_turn"
