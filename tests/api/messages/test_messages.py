from dataclasses import replace

import pytest

from api.chat.prepare import chat_input
from api.gate.errors import messages_error
from api.messages.chunks import MessageChunks, MessageMeta
from api.messages.prepare import chat_request
from api.reading.choice import ParseOptions
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from common.errors import InvalidRequest, ModelNotFound, OmniError, Overloaded
from common.grammar.check import GrammarCheck
from common.wire import Delta, Failed, Finished
from tests.api.events import fed, folded, log

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,))
TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def form(**changes):
    fields = {"id": "msg_1", "model": "tiny", "created": 5, "num_prompt_tokens": 7, "stop": [], "reading": TOOLS}
    return MessageMeta(**fields | changes)


def asked(**body):
    given = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return parse(MessagesRequest, given | body)


def test_a_text_is_streamed_in_anthropics_order(encoder):
    events = fed(MessageChunks(form(), encoder), log("Hello", step=5))
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
                "usage": {"input_tokens": 7, "output_tokens": 0},
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
    message = folded(MessageChunks(form(), encoder), events)
    thinking, text, call = message["content"]
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert text == {"type": "text", "text": "I add."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "add", {"a": 1})
    assert 0 < message["usage"]["output_tokens_details"]["thinking_tokens"] <= message["usage"]["output_tokens"]
    assert call["id"].startswith("toolu_") and message["stop_reason"] == "tool_use"
    said = fed(MessageChunks(form(), encoder), events)
    deltas = [event["delta"] for event in said if event["type"] == "content_block_delta"]
    assert "".join(delta.get("partial_json", "") for delta in deltas) == '{"a": 1}'
    assert [event["index"] for event in said if event["type"] == "content_block_start"] == [0, 1, 2]


def test_the_stop_sequence_that_ended_the_text_is_named(encoder):
    ids = encoder.tokenize("a STOP")
    events = [Delta(0, tuple(ids), "a ", finish_reason="stop"), Finished(7, 6)]
    message = folded(MessageChunks(form(stop=["never", "STOP"]), encoder), events)
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")
    assert message["content"][0]["text"] == "a "


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop_sequence"), ("length", "max_tokens")])
def test_a_call_that_was_cut_off_is_no_block_of_the_message(encoder, reason, told):
    *begun, last, end = log("I add." + CALL[: CALL.index("1}}")])
    events = [*begun, replace(last, token_ids=(65,), finish_reason=reason), end]
    stop = [encoder.decode([65])]
    said = fed(MessageChunks(form(stop=stop), encoder), events)
    assert said[-2]["delta"]["stop_reason"] == told
    message = folded(MessageChunks(form(stop=stop), encoder), events)
    assert (message["content"], message["stop_reason"]) == ([{"type": "text", "text": "I add."}], told)
    only_call = folded(MessageChunks(form(), encoder), log(CALL[:44], finish_reason="length"))
    assert only_call["content"] == [{"type": "text", "text": ""}]


def test_the_length_is_told(encoder):
    message = folded(MessageChunks(form(stop=["x"]), encoder), log("Hel", finish_reason="length"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)


def test_a_failure_is_no_chunk(encoder):
    completion = MessageChunks(form(), encoder)
    completion.feed(Failed("out_of_memory", "CUDA out of memory"))
    assert completion.failed is not None


def test_blocks_become_messages():
    call = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}], "is_error": True}
    chat = chat_request(
        asked(
            system=[{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {"role": "user", "content": "1+1"},
                {"role": "assistant", "content": [thought, {"type": "text", "text": "I add."}, call]},
                {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
            ],
        )
    )
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool", "user"]
    assert chat.messages[2].reasoning_content == "hm" and chat.messages[2].tool_calls[0].id == "t1"
    assert (chat.messages[3].content, chat.messages[4].content) == ("Error: 2", "And?")


def test_options_become_a_chat_requests(encoder):
    body = asked(
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["x"],
        temperature=0.2,
        top_k=3,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    ready = chat_input(chat_request(body), encoder, GrammarCheck())
    assert (ready.sampling.temperature, ready.sampling.top_k) == (0.2, 3)
    assert ready.sampling.max_tokens == 9 and '"const":"add"' in ready.sampling.grammar
    assert chat_request(body).thinking.type == "enabled"


def test_what_coding_agents_send_is_understood(encoder):
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    body = asked(
        max_tokens=32_000,
        system=[{"type": "text", "text": "You are an agent."} | ephemeral],
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"} | ephemeral]}],
        tools=[TOOL | {"type": "custom", "description": "Adds."} | ephemeral],
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "me"},
        output_config={"effort": "high"},
    )
    ready = chat_input(chat_request(body), encoder, GrammarCheck())
    assert ready.sampling.max_tokens == 4096 - len(ready.prompt.ids)


def test_a_message_begun_by_the_caller_is_continued():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    assert chat_request(asked(messages=turns)).continue_final_message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ],
)
def test_what_cannot_be_done_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_request(asked(**change))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (ModelNotFound("x"), "not_found_error"),
        (Overloaded("x"), "rate_limit_error"),
        (OmniError("x", code="out_of_memory"), "api_error"),
    ],
)
def test_errors_are_worded_as_anthropic_does(error, kind):
    assert messages_error(error) == {"type": "error", "error": {"type": kind, "message": "x"}}
