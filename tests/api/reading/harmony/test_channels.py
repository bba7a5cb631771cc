"""Harmony: an answer's messages become reasoning, content and calls, in any cutting."""

import json
from random import Random

import pytest

from tests.api.reading.harmony.answers import CALL, NEXT, cut, message, read


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
        ('<|channel|>commentary to=functions.f<|message|>{"a": <|call|>', "", "", []),
        (
            '<|channel|>commentary to=functions.f<|message|>{"a": "x<|end|>y <|start|>"} {}<|call|>',
            "",
            "",
            [("f", '{"a": "x<|end|>y <|start|>"}')],
        ),
        ("The end of a text that the prompt began.", "", "The end of a text that the prompt began.", []),
        (" to whom?", "", " to whom?", []),
        ("<|message|>Hello", "", "Hello", []),
        (f"<|end|>{NEXT}<|channel|>final<|message|>Hello<|end|><|return|>", "", "Hello", []),
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


@pytest.mark.parametrize("header", ["<|channel|>commentary to=functions.f{}", "<|channel|>final {}"])
def test_a_header_is_too_long_in_every_cutting_or_in_none(header):
    for size in (300, *range(440, 500), 600):
        text = f"{header.format('f' * size)}<|message|>{{}}<|call|>"
        assert read([text])[:3] == read(list(text))[:3] == read([text[:99], text[99:]])[:3]


@pytest.mark.parametrize("recipient", ["", "functions."])
@pytest.mark.parametrize("arguments", ["{}", '{"x": 1}', ""])
def test_a_message_to_a_function_without_a_name_is_content(recipient, arguments):
    text = f"<|channel|>final<|message|>hi <|channel|>commentary to={recipient}<|message|>{arguments}<|end|>"
    assert read([text])[:3] == read(list(text))[:3] == ("", "hi" + arguments, [])


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
