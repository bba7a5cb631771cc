"""Harmony: an answer's messages become reasoning, content and calls, in any cutting."""

import json
from random import Random

import pytest

from api.reading.choice import ChoiceParser, ParseOptions
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart, merged
from common.wire import Delta

STOP = 200002
NEXT = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}'
TEXTS = ("Hm.", "Two <b>lines</b>\n\nto=functions.f", "über 😀", "a < b <|", "json{}")
ARGUMENTS = ("{}", '{"city": "Rome", "n": [1, {"a": null}]}', '{\n  "code": "x = \\"<|\\"\\n"\n}')


def read(deltas, *, dialect="harmony", opened=False, finish="stop", must_call=False):
    """(reasoning, content, complete calls, finish_reason, reasoning tokens) of an answer."""
    options = ParseOptions(
        tool_dialect=dialect,
        reasoning_form="harmony",
        is_thinking_opened=opened,
        stop_token_ids=(STOP,),
        must_call=must_call,
    )
    parser = ChoiceParser(options, "job", 0)
    pieces = [piece for delta in deltas for piece in parser.read(Delta(index=0, text=delta, token_ids=(1,)))]
    ids = (STOP,) if finish == "stop" else (1,)
    pieces = merged([*pieces, *parser.read(Delta(index=0, text="", token_ids=ids, finish_reason=finish))])
    calls = {piece.index: [piece.name, ""] for piece in pieces if isinstance(piece, ToolCallStart)}
    for piece in pieces:
        if isinstance(piece, ToolCallArguments):
            calls[piece.index][1] += piece.text
    ended = [piece.index for piece in pieces if isinstance(piece, ToolCallEnd)]
    return (
        "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)),
        "".join(piece.text for piece in pieces if isinstance(piece, Content)),
        [tuple(calls[index]) for index in ended],
        parser.finish_reason,
        parser.num_reasoning_tokens,
    )


def cut(text, rng):
    while text:
        size = rng.choice((1, 1, 3, 10, len(text)))
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (
            f"<|channel|>analysis<|message|>User greets.<|end|>{NEXT}<|channel|>final<|message|>Hello!",
            "User greets.",
            "Hello!",
            [],
        ),
        (f"<|channel|>analysis<|message|>Hm.<|end|>{NEXT}{CALL}<|call|>", "Hm.", "", [("f", '{"x": 1}')]),
        (CALL, "", "", [("f", '{"x": 1}')]),
        (
            ' to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>',
            "",
            "",
            [("f", '{"x": 1}')],
        ),
        (f"<|channel|>analysis to=functions.f code<|message|>{{}}{NEXT}", "", "", [("f", "{}")]),
        ("<|channel|>commentary to=functions.now<|message|>", "", "", [("now", "{}")]),
        (
            f"<|channel|>commentary<|message|>I look.<|end|>{NEXT}{CALL}",
            "",
            "I look.",
            [("f", '{"x": 1}')],
        ),
        (
            f"<|channel|>analysis<|message|>A.<|end|>{NEXT}<|channel|>commentary<|message|>B.<|end|>"
            f"{NEXT}<|channel|>analysis<|message|>C.<|end|>{NEXT}<|channel|>final<|message|>D.",
            "A.\n\nC.",
            "B.\n\nD.",
            [],
        ),
        ("<|channel|>analysis to=python code<|message|>print(1)", "print(1)", "", []),
        (
            '<|channel|>analysis to=browser.search<|message|>{"query": "x"}',
            "",
            "",
            [("browser.search", '{"query": "x"}')],
        ),
        ("<|channel|>commentary to=functions.f<|message|>x = 1", "", "x = 1", []),
        ("<|channel|>commentary to=functions.f<|message|>{x", "", "", []),
        ("The end of a text that the prompt began.", "", "The end of a text that the prompt began.", []),
        (" to whom?", "", " to whom?", []),
        ("<|message|>Hello", "", "Hello", []),
        (f"<|channel|>analysis<|message|>Hm.{NEXT}<|channel|>final<|message|>Four.", "Hm.", "Four.", []),
        (f"<|channel|>analysis<|end|>{NEXT}<|channel|>final<|message|>Four.", "", "Four.", []),
        (
            "<|channel|>final<|message|>Four.<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>5",
            "5",
            "Four.",
            [],
        ),
    ],
)
def test_each_channel_goes_where_it_belongs(text, reasoning, content, calls):
    finish_reason = "tool_calls" if calls else "stop"
    for seed in range(30):
        found = read(cut(text, Random(seed)))
        assert found[:4] == (reasoning, content, calls, finish_reason)


def test_without_offered_tools_a_message_to_a_tool_is_part_of_the_reasoning():
    assert read([CALL], dialect=None)[:4] == ('{"x": 1}', "", [], "stop")
    assert read([f"<|channel|>final<|message|>Four.<|end|>{NEXT}{CALL}"], dialect=None)[1] == "Four."


def test_a_prompt_that_ends_inside_the_analysis_is_read_on():
    text = f"Hm.<|end|>{NEXT}<|channel|>final<|message|>Four."
    assert read(list(text), opened=True)[:2] == ("Hm.", "Four.")


def message(rng):
    """A message as the model writes it, and what it is read as."""
    kind, text = rng.choice(("analysis", "commentary", "final", "call")), rng.choice(TEXTS)
    if kind != "call":
        return f"<|channel|>{kind}<|message|>{text}", ("reasoning" if kind == "analysis" else "content", text)
    name, arguments = rng.choice(("f", "get_weather", "a-b.c_9")), rng.choice(ARGUMENTS)
    content_type = rng.choice(("", " json", " <|constrain|>json", "<|constrain|>json", " code"))
    header = rng.choice(
        (
            f"<|channel|>commentary to=functions.{name}{content_type}",
            f" to=functions.{name}<|channel|>commentary{content_type}",
            f"<|channel|>analysis to=functions.{name}{content_type}",
        )
    )
    return f"{header}<|message|>{rng.choice(('', ' '))}{arguments}", ("call", (name, arguments))


def test_any_messages_are_read_back_in_any_cutting():
    for seed in range(600):
        rng = Random(seed)
        messages = [message(rng) for _ in range(rng.randrange(1, 5))]
        ends = ["<|call|>" if meant[0] == "call" else "<|end|>" for _, meant in messages]
        ends[-1] = rng.choice((ends[-1], ""))
        text = NEXT.join(written + end for (written, _), end in zip(messages, ends, strict=True))
        meant = {kind: [value for _, (found, value) in messages if found == kind] for kind in ("reasoning", "content")}
        calls = [value for _, (kind, value) in messages if kind == "call"]
        reasoning, content, found, finish_reason, _ = read(cut(text, rng))
        assert reasoning == "\n\n".join(meant["reasoning"]), (seed, text)
        assert "".join(content.split()) == "".join("".join(meant["content"]).split()), (seed, text)
        assert [(name, json.loads(text)) for name, text in found] == [(n, json.loads(a)) for n, a in calls], seed
        assert finish_reason == ("tool_calls" if calls else "stop")


def test_where_a_broken_answer_is_cut_does_not_matter():
    parts = (
        *("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|constrain|>", "analysis", "final"),
        *(
            "commentary",
            "assistant",
            " to=functions.f",
            "to=python",
            "{}",
            '{"a": ',
            "hi",
            " ",
            "\n",
            "<|",
            "<|ch",
            "to=",
        ),
    )
    for seed in range(600):
        rng = Random(seed)
        text = "".join(rng.choices(parts, k=rng.randrange(14)))
        for finish in ("stop", "length"):
            for dialect in ("harmony", None):
                whole = read([text], dialect=dialect, finish=finish)[:4]
                assert read(cut(text, rng), dialect=dialect, finish=finish)[:4] == whole, (seed, text)
                assert read(list(text), dialect=dialect, finish=finish)[:4] == whole, (seed, text)


def test_a_forced_call_that_is_cut_off_leaks_no_markup():
    text = f"<|channel|>analysis<|message|>Hm.<|end|>{NEXT}{CALL}"
    for size in range(len(text)):
        reasoning, content, calls, finish_reason, _ = read([text[:size]], finish="length", must_call=True)
        assert (content, calls, finish_reason) == ("", [], "length")
        assert reasoning.startswith("Hm.") or "Hm.".startswith(reasoning)


def test_tokens_of_the_analysis_are_counted_as_reasoning():
    deltas = ["<|channel|>", "analysis", "<|message|>", "Two", " and", " two", "<|end|>", "<|start|>", "assistant"]
    *_, num_tokens = read([*deltas, "<|channel|>", "final", "<|message|>", "Four", "."])
    assert num_tokens == 6
