"""Lists of JSON calls between two markers, and what models leave out of them."""

import json
from random import Random

import pytest

from api.reading.dialects.known import dialect_for, dialect_named
from api.reading.dialects.objects.marked_lists import MARKED_LISTS
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from tests.api.reading.dialects.reading import PARTS, arguments_of, calls, cuttings, parse

F = '{"name": "f", "arguments": {"a": 1}}'
G = '{"name": "g", "arguments": {}}'
BOTH = [("f", '{"a": 1}'), ("g", "{}")]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("'<|tools_prefix|>' + '['", "apertus"),
        ('<tool_calls>\\n{"name": <tool-name>, "arguments": <args-json-object>}', "minimax_m1"),
        ("<AVAILABLE_TOOLS>[ ... <TOOLCALL>[", "nemotron_v2"),
        ("'<|tool|>' + message['tools'] + '<|/tool|>'", "phi4"),
        ("prefix function calls with functools[ {{ tools }}", "functools"),
        ('<tool_calls>[{"name": "func_name1"', "tool_calls"),
    ],
)
def test_the_dialect_is_read_off_the_template(template, name):
    assert dialect_for(template, "llama").name == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tool_calls", f"<tool_calls>[{F}, {G}]</tool_calls>"),
        ("tool_calls", f"<tool_calls>[\n    {F},\n    {G}\n]\n</tool_calls>\n"),
        ("tool_calls", f"<tool_calls>[{F}, {G}]"),
        ("tool_calls", f"<tool_calls>[{F}, {G}</tool_calls>"),
        ("tool_calls", f"<tool_calls>{F}\n{G}</tool_calls>"),
        ("tool_calls", f"<tool_calls>[{F}]</tool_calls>\n<tool_calls>[{G}]</tool_calls>"),
        ("tool_calls", f'<tool_calls>[{F[:-1]}, "id": "call_1"}}, {G}]</tool_calls>'),
        ("minimax_m1", f"<tool_calls>\n{F}\n{G}\n</tool_calls>"),
        ("nemotron_v2", '<TOOLCALL>[{"name": "f", "arguments": "{\\"a\\": 1}"}, {"name": "g"}]</TOOLCALL>'),
        ("phi4", f"<|tool_call|>[{F}, {G}]<|/tool_call|>"),
        ("phi4", f"<|tool_call|>{F}<|/tool_call|><|tool_call|>{G}<|/tool_call|>"),
        ("phi4", f"functools[{F}, {G}]"),
        ("functools", f" functools[{F}, {G}]"),
        ("functools", f"functools[\n{F},\n{G}"),
        ("apertus", '<|tools_prefix|>[{"f": {"a": 1}}, {"g": {}}]<|tools_suffix|>'),
        ("apertus", '<|tools_prefix|>{"f": {"a": 1}}, {"g": {} }'),
    ],
)
def test_calls_are_read_also_where_a_mark_is_missing(name, text):
    for deltas in ([text], list(text)):
        assert calls(parse(name, deltas)) == (BOTH, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tool_calls", "<tool_calls>[]</tool_calls>"),
        ("tool_calls", "<tool_calls></tool_calls>"),
        ("tool_calls", "The tag <tool_calls> begins calls."),
        ("tool_calls", '<tool_calls>[{"name": 1}]</tool_calls>'),
        ("functools", "Use functools[0], or [1]."),
        ("functools", "functools[{1: 2}]"),
        ("apertus", '<|tools_prefix|>[{"f": 1}]<|tools_suffix|>'),
        ("apertus", '<|tools_prefix|>[{"f": {'[:-1]),
        ("nemotron_v2", "<TOOLCALL>[</TOOLCALL>"),
    ],
)
def test_text_that_is_not_a_call_comes_out_unchanged(name, text):
    for deltas in ([text], list(text)):
        assert calls(parse(name, deltas)) == ([], text)


def test_text_around_a_list_is_content():
    text = f"I look.\n<tool_calls>[{F}]</tool_calls> Done. <tool_calls>[{G}]</tool_calls>"
    assert calls(parse("tool_calls", list(text))) == (BOTH, "I look. Done.")


def test_a_call_that_breaks_after_it_began_leaks_no_markup():
    text = '<tool_calls>[{"name": "f", "arguments": {"a": 1]}}]</tool_calls>Bye.'
    assert calls(parse("tool_calls", list(text))) == ([("f", '{"a": 1')], "Bye.")
    pieces = parse("apertus", list('<|tools_prefix|>[{"f": {"a": tru]}}]<|tools_suffix|>Bye.'))
    assert calls(pieces) == ([("f", '{"a": ')], "Bye.")
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)


def test_arguments_stream_as_they_are_written():
    parser = ToolCallParser(dialect_named("apertus"), "seed")
    assert parser.feed('<|tools_prefix|>[{"f": ') == []
    assert parser.feed('{"a": "b')[1:] == [ToolCallArguments(0, '{"a": "b')]
    assert parser.feed('c"}') == [ToolCallArguments(0, 'c"}'), ToolCallEnd(0)]


@pytest.mark.parametrize("dialect", MARKED_LISTS, ids=lambda dialect: dialect.name)
def test_any_arguments_are_read_back_in_any_cutting(dialect):
    rng = Random(dialect.name)
    opening = dialect.openings[0]
    closing = "" if opening.endswith("[") else "".join(dialect.further_marks[:1])
    begin, between, end = ("\n", "\n", "\n") if dialect.name == "minimax_m1" else ("[", ", ", "]")
    for _ in range(100):
        made = [
            (rng.choice(["f", "get_x"]), arguments_of(rng, (*PARTS, opening, closing)))
            for _ in range(rng.randint(1, 3))
        ]
        written = [
            json.dumps({name: arguments} if dialect.name == "apertus" else {"name": name, "arguments": arguments})
            for name, arguments in made
        ]
        text = (
            opening + begin.removeprefix("[" if opening.endswith("[") else "") + between.join(written) + end + closing
        )
        for deltas in cuttings(text, rng):
            found, content = calls(parse(dialect.name, deltas))
            assert ([(name, json.loads(arguments)) for name, arguments in found], content) == (made, "")
