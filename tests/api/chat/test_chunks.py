import json
from dataclasses import replace

import orjson
import pytest

from api.chat.chunks import ChatChunks, ChatCompletion, ChatMeta
from api.reading.choice import ParseOptions
from common.wire import Delta, Failed, Finished, TokenLogprob
from tests.api.events import fed, folded, log, spoken

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,))


def meta(**changes):
    return ChatMeta(**{"id": "chatcmpl-1", "model": "tiny", "created": 5} | changes)


def deltas(chunks):
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def joined(chunks, name):
    return "".join(delta.get(name) or "" for delta in deltas(chunks))


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(encoder):
    chunks = fed(ChatChunks(meta(), encoder), log("Hello", step=5))
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "tiny"}
    assert chunks == [
        head | {"choices": [choice | {"delta": {"role": "assistant", "content": ""}}]},
        head | {"choices": [choice | {"delta": {"content": "Hello"}}]},
        head | {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]},
    ]


def test_usage_comes_last_without_choices_and_is_null_before_when_asked_for(encoder):
    chunks = fed(ChatChunks(meta(include_usage=True), encoder), log("Hi"))
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 1,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_call_is_streamed_as_its_name_then_its_arguments(encoder, step):
    chunks = fed(ChatChunks(meta(reading=TOOLS), encoder), log(CALL, step=step))
    calls = [call for delta in deltas(chunks) for call in delta.get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "add", "arguments": ""}
    assert calls[0]["id"].startswith("call_") and calls[0]["type"] == "function"
    assert json.loads("".join(call["function"]["arguments"] for call in calls[1:])) == {"a": 1}
    assert joined(chunks, "content") == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_custom_tool_s_call_is_openais_form_of_it(encoder, step):
    text = '<tool_call>\n{"name": "spell", "arguments": {"input": "a\\nb"}}\n</tool_call>'
    options = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,), custom_tools=("spell",))
    _, calls, _, choice = streamed_and_folded(encoder, log(text, step=step), reading=options)
    assert calls[0] | {"id": ""} == {"index": 0, "id": "", "type": "custom", "custom": {"name": "spell", "input": ""}}
    assert "".join(call["custom"]["input"] for call in calls) == "a\nb"
    [call] = choice["message"]["tool_calls"]
    assert call == {"id": calls[0]["id"], "type": "custom", "custom": {"name": "spell", "input": "a\nb"}}


def test_an_answer_that_only_calls_has_null_content(encoder):
    body = folded(ChatCompletion(meta(reading=TOOLS), encoder), log(CALL + "\n" + CALL))
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "add", "arguments": '{"a": 1}'}] * 2
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_cut_off_by_the_limit_finishes_with_length(encoder):
    body = folded(ChatCompletion(meta(reading=TOOLS), encoder), log(CALL[:50], finish_reason="length"))
    assert body["choices"][0]["finish_reason"] == "length"


def streamed_and_folded(encoder, events, **changes):
    """Of the stream: content, call pieces, finish_reason. Of the folded answer: its choice."""
    chunks = fed(ChatChunks(meta(**changes), encoder), events)
    [choice] = folded(ChatCompletion(meta(**changes), encoder), events)["choices"]
    calls = [call for delta in deltas(chunks) for call in delta.get("tool_calls", ())]
    return joined(chunks, "content"), calls, chunks[-1]["choices"][0]["finish_reason"], choice


def cut(text, reason):
    """A log that a stop string or the limit ended."""
    *begun, last, end = log(text)
    return [*begun, replace(last, token_ids=(65,), finish_reason=reason), end]


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("before", ["", CALL + "\n"])
def test_an_incomplete_call_is_never_reported_as_one(encoder, reason, before):
    events = cut(before + CALL[: CALL.index("1}}")], reason)
    content, calls, streamed_reason, choice = streamed_and_folded(encoder, events, reading=TOOLS)
    assert content == "" and calls
    assert streamed_reason == choice["finish_reason"] == reason
    whole = choice["message"].get("tool_calls", [])
    assert [call["function"]["arguments"] for call in whole] == (['{"a": 1}'] if before else [])


@pytest.mark.parametrize("length", range(1, 30, 4))
def test_a_required_call_that_is_cut_off_leaks_no_markup(encoder, length):
    reading = replace(TOOLS, must_call=True)
    content, _, reason, choice = streamed_and_folded(encoder, cut(CALL[:length], "length"), reading=reading)
    assert (content, choice["message"]["content"], reason) == ("", "", "length")


def test_a_complete_call_that_a_stop_string_ended_is_reported(encoder):
    _, _, reason, choice = streamed_and_folded(encoder, cut(CALL.removesuffix("</tool_call>"), "stop"), reading=TOOLS)
    assert reason == choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_without_tools_the_markup_of_a_call_is_text(encoder):
    body = folded(ChatCompletion(meta(), encoder), log(CALL))
    assert body["choices"][0]["message"]["content"] == CALL
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_thinking_is_separated_under_both_names_and_counted(encoder, step):
    events = log("<think>\nhm, two\n</think>\n\nTwo.", step=step)
    chunks = fed(ChatChunks(meta(include_usage=True), encoder), events)
    assert joined(chunks, "reasoning_content") == joined(chunks, "reasoning") == "hm, two"
    assert joined(chunks, "content") == "Two."
    body = folded(ChatCompletion(meta(), encoder), events)
    assert body["choices"][0]["message"]["reasoning_content"] == "hm, two"
    num_reasoning = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < num_reasoning <= body["usage"]["completion_tokens"]
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == num_reasoning


def test_an_answer_whose_prompt_opened_the_thinking_begins_inside_it(encoder):
    reading = ParseOptions(is_thinking_opened=True)
    body = folded(ChatCompletion(meta(reading=reading), encoder), log("so</think>Yes."))
    assert body["choices"][0]["message"]["reasoning"] == "so"
    assert body["choices"][0]["message"]["content"] == "Yes."


def test_reasoning_that_is_not_wanted_is_left_out_but_counted(encoder):
    reading = ParseOptions(shows_reasoning=False)
    body = folded(ChatCompletion(meta(reading=reading), encoder), log("<think>so</think>Yes."))
    assert "reasoning" not in body["choices"][0]["message"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_the_bytes_of_logprobs_are_the_text_also_when_tokens_are_parts_of_characters(encoder):
    raw = "é🙂".encode()
    ids = [encoder.tokenize(text)[part] for text, part in (("é", 0), ("é", 1), *(("🙂", part) for part in range(4)))]
    texts = ["", "é", "", "", "", "🙂"]
    events = [
        Delta(0, (token,), text, (TokenLogprob(token, -0.5, ((token, -0.5),)),))
        for token, text in zip(ids, texts, strict=True)
    ]
    events += [Delta(0, (258,), "", (TokenLogprob(258, -0.1),), "stop"), Finished(1, 7)]
    body = folded(ChatCompletion(meta(logprobs=True, reading=TOOLS), encoder), events)
    entries = body["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == raw
    assert entries[0]["token"] == "\\xc3"  # half a character, as OpenAI writes it
    chunks = fed(ChatChunks(meta(logprobs=True, reading=TOOLS), encoder), events)
    streamed = [entry for c in chunks for entry in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == entries


def test_choices_are_parsed_separately(encoder):
    first, second = spoken(CALL, index=0), spoken("No.", index=1)
    events = [event for pair in zip(first, second, strict=False) for event in pair] + first[len(second) :]
    body = folded(ChatCompletion(meta(n=2, reading=TOOLS), encoder), [*events, Finished(1, 9)])
    assert [choice["finish_reason"] for choice in body["choices"]] == ["tool_calls", "stop"]
    assert body["choices"][1]["message"]["content"] == "No."


def test_the_same_log_gives_the_same_bytes(encoder):
    events = log("<think>a</think>" + CALL, step=2)
    again = [orjson.dumps(fed(ChatChunks(meta(reading=TOOLS), encoder), events)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_failure_is_no_chunk(encoder):
    assert fed(ChatChunks(meta(), encoder), [Failed("out_of_memory", "CUDA out of memory")]) == []


@pytest.mark.parametrize(
    ("text", "content"), [(CALL, None), ("So: " + CALL, ""), ("<think>Hm.</think>" + CALL, ""), ("", "")]
)
def test_the_first_delta_has_null_for_content_when_a_call_comes_first(text, content, encoder):
    first, *_ = deltas(fed(ChatChunks(meta(reading=TOOLS), encoder), log(text, step=2)))
    assert first == {"role": "assistant", "content": content}


def test_an_answer_to_functions_has_one_function_call(encoder):
    old = meta(reading=TOOLS, has_old_calls=True)
    chunks = fed(ChatChunks(old, encoder), log(CALL, step=9))
    called = [delta["function_call"] for delta in deltas(chunks) if "function_call" in delta]
    assert called[0]["name"] == "add" and "".join(piece["arguments"] for piece in called) == '{"a": 1}'
    assert deltas(chunks)[0] == {"role": "assistant", "content": None}
    assert not any("tool_calls" in delta for delta in deltas(chunks))
    [choice] = folded(ChatCompletion(old, encoder), log(CALL))["choices"]
    assert choice["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "add", "arguments": '{"a": 1}'}
    assert ChatMeta.from_forms(old.forms()) == old
    assert "has_old_calls" not in meta().forms()[0] and ChatMeta.from_forms(meta().forms()) == meta()
