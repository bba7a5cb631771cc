"""Gemma 4 and FunctionGemma: calls as the templates write them, read in any cutting and enforced."""

import json
from random import Random
from typing import Any

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_for, dialect_named
from api.reading.dialects.literals.gemma import FUNCTION_GEMMA, GEMMA4
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from common.errors import InvalidRequest
from common.grammar.answer import MarkedText
from tests.api.reading.dialects.reading import PARTS, arguments_of, calls, cuttings, parse
from tests.api.reading.dialects.walks import an_instance, an_object_schema, fits, walk
from tests.grammars import PLAIN, allows

NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
BOTH = pytest.mark.parametrize("dialect", [GEMMA4, FUNCTION_GEMMA], ids=lambda dialect: dialect.name)


def written(value: Any, mark: str) -> str:
    """A value as Gemma's templates write it."""
    if isinstance(value, str):
        return f"{mark}{value}{mark}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + members(value, mark) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, mark) for item in value) + "]"
    return str(value)


def members(arguments: dict[str, Any], mark: str) -> str:
    return ",".join(f"{name}:{written(arguments[name], mark)}" for name in sorted(arguments, key=str.lower))


def call(dialect, name: str, arguments: dict[str, Any]) -> str:
    [opening], (mark, closing) = dialect.openings, dialect.further_marks
    return f"{opening}call:{name}{{{members(arguments, mark)}}}{closing}"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("'<|tool_call>call:' + function['name'] + '{'", "gemma4"),
        ("'<start_function_call>call:' + function['name'] + '{'", "function_gemma"),
    ],
)
def test_the_dialect_is_read_off_the_template(template, name):
    assert dialect_for(template, "gemma").name == name


@BOTH
def test_any_arguments_are_read_back_in_any_cutting(dialect):
    rng = Random(dialect.name)
    parts = (*PARTS, "<|", "|>", *dialect.openings, dialect.further_marks[1], dialect.further_marks[0][:-1])
    for _ in range(100):
        made = [(rng.choice(["f", "get_x"]), arguments_of(rng, parts)) for _ in range(rng.randint(1, 3))]
        text = "".join(call(dialect, name, arguments) for name, arguments in made)
        for deltas in cuttings(text, rng):
            found, content = calls(parse(dialect.name, deltas))
            assert ([(name, json.loads(arguments)) for name, arguments in found], content) == (made, "")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('<|tool_call>call:f{a:<|"|>x<|"|>}', {"a": "x"}),
        ('<|tool_call> call: f {\n  a: <|"|>x<|"|>,\n  b: 5,\n}\n<tool_call|>', {"a": "x", "b": 5}),
        ('<|tool_call>call:f{<|"|>a b<|"|>:<|"|>x<|"|>}<tool_call|>', {"a b": "x"}),
        ('<|tool_call>call:f{"a":"x\\n","b":["y",null]}<tool_call|>', {"a": "x\n", "b": ["y", None]}),
        ("<|tool_call>call:f{a:Paris, France}<tool_call|>", None),
        (
            "<|tool_call>call:f{a:New York,b:True,c:1e3,d:<b>}<tool_call|>",
            {"a": "New York", "b": True, "c": 1e3, "d": "<b>"},
        ),
        ("<|tool_call>call:f{a:{},b:[],c:[[],{}]}<tool_call|>", {"a": {}, "b": [], "c": [[], {}]}),
        ("<|tool_call>call:f{a:}<tool_call|>", None),
        ("<|tool_call>call:f{a:[1}]}<tool_call|>", None),
    ],
)
def test_what_models_write_otherwise_is_read_or_no_complete_call(text, arguments):
    for deltas in ([text], list(text)):
        pieces = parse("gemma4", deltas)
        [(name, found)], content = calls(pieces)
        assert (name, content) == ("f", "")
        assert any(isinstance(piece, ToolCallEnd) for piece in pieces) is (arguments is not None)
        if arguments is not None:
            assert json.loads(found) == arguments


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("zip:2139", {"zip": "2139"}),
        ("zip:true", {"zip": "true"}),
        ('zip:<|"|>5<|"|>', {"zip": "5"}),
        ('days:<|"|>5<|"|>', {"days": 5}),
        ('days:<|"|>[1, {"a": "<"}]<|"|>', {"days": [1, {"a": "<"}]}),
        ('days:<|"|>five\n<|"|>', {"days": "five\n"}),
        ('days:[<|"|>5<|"|>],zip:{zip:1},any:5', {"days": ["5"], "zip": {"zip": 1}, "any": 5}),
        ('any:<|"|>5<|"|>', {"any": "5"}),
    ],
)
def test_a_value_in_the_wrong_marks_becomes_what_its_schema_says(written, meant):
    text = f"<|tool_call>call:f{{{written}}}<tool_call|>"
    for deltas in ([text], list(text)):
        [(_, arguments)], content = calls(parse("gemma4", deltas, {"f": {"zip": "text", "days": "json"}}))
        assert (json.loads(arguments), content) == (meant, "")


@pytest.mark.parametrize("text", ["<|tool_call>call me", "<|tool_call>call:f(", "a <|tool_call|> b", "<|tool_call>"])
def test_text_that_is_not_a_call_comes_out_unchanged(text):
    for deltas in ([text], list(text)):
        assert calls(parse("gemma4", deltas)) == ([], text)


def test_text_around_calls_is_content():
    text = "I look.\n" + call(GEMMA4, "f", {}) + call(GEMMA4, "g", {"a": 1}) + "\nDone."
    assert calls(parse("gemma4", list(text))) == ([("f", "{}"), ("g", '{"a": 1}')], "I look.\nDone.")


def test_strings_stream_as_they_are_written():
    parser = ToolCallParser(dialect_named("gemma4"), "seed")
    parser.feed("<|tool_call>call:f{a:")
    assert parser.feed('<|"|>two\n"w') == [ToolCallArguments(0, '"a": "two\\n\\"w'[5:])]
    assert parser.feed('<|"') == []
    assert parser.feed("!<") == [ToolCallArguments(0, '<|\\"!')]
    assert parser.feed('|"|>}') == [ToolCallArguments(0, '"}'), ToolCallEnd(0)]


@BOTH
def test_the_grammar_admits_what_the_template_writes(dialect):
    rng = Random(1)
    for _ in range(60):
        schema = an_object_schema(rng)
        grammar = dialect.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=False, marked=PLAIN)
        text = call(dialect, "f", an_instance(schema, rng, ("a", "é", "\n", '"', "<", "x")))
        assert allows(grammar, text)
        assert not allows(grammar, text.replace("call:f", "call:g"))


@BOTH
@pytest.mark.parametrize("strict", [True, False])
def test_what_the_grammar_admits_is_read_back_as_the_schema_wants_it(dialect, strict):
    rng = Random(2)
    [opening], (mark, closing) = dialect.openings, dialect.further_marks
    fragments = (*PARTS, "city", "1", "true", "None", mark[:-1], opening, "{", "[", ",", "]", "}", mark, closing)
    ended = 0
    for _ in range(60):
        schema = an_object_schema(rng)
        functions = [OfferedFunction("f", schema, strict), OfferedFunction("g", None, strict)]
        grammar = dialect.grammar(functions, must_call=True, parallel=True, marked=PLAIN)
        if (text := walk(grammar, rng, fragments)) is None:
            continue
        ended += 1
        pieces = parse(dialect.name, list(text))
        found, content = calls(pieces)
        assert found and not content
        assert sum(isinstance(piece, ToolCallEnd) for piece in pieces) == len(found)
        for name, arguments in found:
            assert fits(json.loads(arguments), schema if name == "f" else NOTHING)
    assert ended > 50


def test_markers_that_are_tokens_are_written_by_their_ids():
    marked = MarkedText({'<|"|>': 7, "<|tool_call>": 8, "<tool_call|>": 9})
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]}
    grammar = GEMMA4.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=marked)
    assert "<[7]> string_0_3_text <[7]>" in grammar.text
    assert "<|" not in grammar.text


@pytest.mark.parametrize(
    ("wanted", "keyword"),
    [
        ({"type": "string", "pattern": "a"}, "pattern"),
        ({"type": "string", "format": "date"}, "format"),
        ({"allOf": [{"type": "string"}]}, "allOf"),
        ({"oneOf": [{"type": "string"}]}, "oneOf"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ],
)
def test_keywords_that_cannot_be_written_are_refused_by_name_if_strict_and_relaxed_otherwise(wanted, keyword):
    schema = {"type": "object", "properties": {"a": wanted}, "required": ["a"]}
    with pytest.raises(InvalidRequest, match=f"'{keyword}'"):
        GEMMA4.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=PLAIN)
    grammar = GEMMA4.grammar([OfferedFunction("f", schema)], must_call=True, parallel=True, marked=PLAIN)
    assert not allows(grammar, "<|tool_call>call:f{}<tool_call|>")
