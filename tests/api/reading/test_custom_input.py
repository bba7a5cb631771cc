"""The input of a custom tool, read from the arguments of the function that stands for it."""

import json
import random

import pytest

from api.reading.choice import ChoiceParser, ParseOptions, parse_options, stored_options
from api.reading.custom_input import CustomInputs, InputText
from api.reading.pieces import ToolCallArguments, ToolCallEnd, ToolCallStart
from common.wire import Delta

PATCH = '*** Begin Patch\n+"quoted" \\ back\tslash\n+caf\u00e9 \U0001f600 \u2028\n*** End Patch\n'


def read(arguments: str, *cuts: int) -> list[str]:
    """The pieces of the input, for arguments cut at these places."""
    text = InputText()
    places = [0, *sorted(cuts), len(arguments)]
    pieces = [text.feed(arguments[start:end]) for start, end in zip(places, places[1:], strict=False)]
    return [*pieces, text.finish()]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_input_is_the_same_in_any_cutting(ascii_only):
    arguments = json.dumps({"input": PATCH}, ensure_ascii=ascii_only)
    chance = random.Random(5)
    for _ in range(300):
        cuts = [chance.randrange(len(arguments)) for _ in range(chance.randrange(12))]
        assert "".join(read(arguments, *cuts)) == PATCH
    assert "".join(read(arguments, *range(1, len(arguments)))) == PATCH


def test_an_input_is_shown_while_it_is_written():
    text = InputText()
    assert text.feed('{"input": "*** Beg') == "*** Beg"
    assert text.feed("in\\") == "in" and text.feed("n+") == "\n+"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"patch": "x"}', "x"),
        ('{"input": "x", "more": "y"}', "x"),
        ('{"lines": 3, "input": "x"}', "x"),
        ('{"lines": [3]}', '{"lines": [3]}'),
        ("{}", ""),
        ('{"input": ""}', ""),
        ('{"input": "a\\ud83db"}', "a\ufffdb"),
        ('{"input": "\\ud83d\\ud83d\\ude00"}', "\ufffd\U0001f600"),
        ('{"input": "\\ud83d\\u0041\\ud83d"}', "\ufffdA\ufffd"),
        *((f'{{"lines": {value}}}', f'{{"lines": {value}}}') for value in ("9" * 5_000, "[" * 2_000 + "]" * 2_000)),
    ],
    ids=lambda text: text[:30],
)
def test_arguments_of_another_form_are_read_as_far_as_they_can(arguments, expected):
    for cuts in ((), range(1, len(arguments))):
        assert "".join(read(arguments, *cuts)) == expected


def test_only_calls_of_custom_tools_are_rewritten():
    inputs = CustomInputs(("patch",))
    call = [ToolCallStart(0, "c0", "add"), ToolCallArguments(0, '{"input": "1"}'), ToolCallEnd(0)]
    assert inputs.read(call) == call
    assert inputs.read([ToolCallStart(1, "c1", "patch"), ToolCallArguments(1, '{"input": "1'), ToolCallEnd(1)]) == [
        ToolCallStart(1, "c1", "patch", is_custom=True),
        ToolCallArguments(1, "1", is_custom=True),
        ToolCallEnd(1),
    ]


def test_the_names_of_custom_tools_are_stored_with_the_job():
    options = ParseOptions(tool_dialect="hermes", custom_tools=("patch",))
    assert parse_options(stored_options(options)) == options
    assert "custom_tools" not in stored_options(ParseOptions())
    text = '<tool_call>\n{"name": "patch", "arguments": {"input": "a\\nb"}}\n</tool_call>'
    pieces = ChoiceParser(options, "job", 0).read(Delta(0, (1,), text, (), "stop"))
    assert [piece.text for piece in pieces if isinstance(piece, ToolCallArguments)] == ["a\nb"]
