"""Calls as Python expressions, in any cutting, with what models and templates do to strings, and enforced."""

import ast
import json
import time
from random import Random
from typing import Any

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_for, dialect_named
from api.reading.dialects.literals.pythonic import LFM2, OLMO3, PYTHONIC
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from common.errors import InvalidRequest
from tests.api.reading.dialects.reading import PARTS, arguments_of, calls, cuttings, parse
from tests.api.reading.dialects.walks import an_instance, an_object_schema, fits, walk
from tests.grammars import CITY, PLAIN, allows
from tests.growth import is_linear

FRAMES = {
    "lfm2": ("<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
    "olmo3": ("<function_calls>\n", "\n", "\n</function_calls>"),
    "pythonic": ("[", ", ", "]"),
    "llama4": ("<|python_start|>[", ", ", "]<|python_end|>"),
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
ALL = pytest.mark.parametrize("name", FRAMES)
ENFORCED = pytest.mark.parametrize("dialect", [LFM2, OLMO3, PYTHONIC], ids=lambda dialect: dialect.name)


def framed(name: str, *written: str) -> str:
    opening, joint, closing = FRAMES[name]
    return opening + joint.join(written) + closing


def call(function: str, arguments: dict[str, Any]) -> str:
    return f"{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        ("Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]", "llama4", "pythonic"),
        ("[func_name1(params_name1=params_value1, params_name2=params_value2...)]", "llama", "pythonic"),
        ("'<|python_start|>' + '\"parameters\": '", "llama4", "llama4"),
        ("'<|tool_call_start|>['", "lfm2", "lfm2"),
        ("List of tools: <|tool_list_start|>[", "lfm2", "lfm2"),
        ('"List of tools: ["', "", "lfm2"),
        (None, "lfm2_moe", "lfm2"),
        ("<function_calls>\\nget_weather(city='New York')\\n</function_calls>", "olmo3", "olmo3"),
    ],
)
def test_the_dialect_is_read_off_the_template(template, architecture, name):
    assert dialect_for(template, architecture).name == name


@ALL
def test_what_python_itself_writes_is_read_back_in_any_cutting(name):
    rng = Random(name)
    parts = (*PARTS, *FRAMES[name], "\x00", "\x7f", "\u200b")
    for _ in range(100):
        made = [(rng.choice(["f", "get_x"]), arguments_of(rng, parts)) for _ in range(rng.randint(1, 3))]
        text = framed(name, *(call(*one) for one in made))
        for deltas in cuttings(text, rng):
            found, content = calls(parse(name, deltas))
            assert ([(function, json.loads(arguments)) for function, arguments in found], content) == (made, "")


LITERALS = [
    r"'a\x41\u00e9\U0001f600\N{BULLET}\101\0\a\b\f\v\r\t\n\\\'\"'",
    "'''a'b''c\n\"d\"'''",
    '"""x"""',
    r"r'\d+\.'",
    "u'x'",
    "'one \\\ntwo'",
    "''",
    "''''''",
    "1_000",
    "0x1F",
    "0o17",
    "0b101",
    "-5",
    "+5",
    ".5",
    "5.",
    "-1e5",
    "1E+3",
    "True",
    "None",
    "[1, 'a', [], {},]",
    "(1, 'a')",
    "{'k': {'n': None}, \"m\": [False],}",
    "[ 'a' ,\n 'b' ]",
]


@pytest.mark.parametrize("written", LITERALS)
def test_a_literal_means_what_it_means_in_python(written):
    meant = ast.literal_eval(written)
    for text in (f"[f(a={written}, b = 1)]", f"[f(b=1, a={written})]", f"[f(b=1,a= {written} , )]"):
        for deltas in ([text], list(text)):
            [(_, arguments)], content = calls(parse("pythonic", deltas))
            assert json.loads(arguments) == {"a": json.loads(json.dumps(meant)), "b": 1}
            assert content == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("'it's fine'", "it's fine"),
        ("'say 'yes', please'", "say 'yes', please"),
        ("'a\nb\\d'", "a\nb\\d"),
        ("'print('x', \"\\n\")'", "print('x', \"\\n\")"),
        ("'f(x='y')'", "f(x='y')"),
        ("'print('a') # b\nx = f('c'), y'", "print('a') # b\nx = f('c'), y"),
        ('"a "b" c"', 'a "b" c'),
        ("true", True),
        ("null", None),
        ('{"a": true, "b": [null]}', {"a": True, "b": [None]}),
        ("['it's', 'b']", ["it's", "b"]),
        (r"'\d \u00 \N{no such character}'", r"\d \u00 \N{no such character}"),
        (r"'\ud83d\ude00'", "😀"),
    ],
)
@ALL
def test_strings_that_were_not_escaped_are_read_as_they_were_meant(name, written, meant):
    for arguments, expected in ((f"a={written}", {"a": meant}), (f"a={written}, b=2", {"a": meant, "b": 2})):
        text = framed(name, f"f({arguments})", "g()")
        for deltas in ([text], list(text)):
            [(f, found), other], content = calls(parse(name, deltas))
            assert (f, json.loads(found), other, content) == ("f", expected, ("g", "{}"), "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lfm2", "<|tool_call_start|>[f(a='x')"),
        ("lfm2", "<|tool_call_start|>[f(a='x')]"),
        ("lfm2", "<|tool_call_start|>f(a='x')<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>\n[\n f( a = 'x' )\n]\n<|tool_call_end|>"),
        ("lfm2", '<|tool_call_start|>[{"name": "f", "arguments": {"a": "x"}}]<|tool_call_end|>'),
        ("olmo3", "<function_calls>f(a='x')"),
        ("olmo3", "<function_calls>[f(a='x')]</function_calls>"),
        ("llama4", "[f(a='x')]"),
        ("llama4", '{"name": "f", "parameters": {"a": "x"}}'),
        ("llama4", '<|python_start|><|python_end|>{"name": "f", "parameters": {"a": "x"}}'),
        ("llama4", '[{"name": "f", "parameters": {"a": "x"}}]'),
        ("llama4", '<|python_start|>{"name": "f", "parameters": {"a": "x"}}<|python_end|>'),
        ("olmo3", '<function_calls>f(a="x")</function_calls>'),
        ("pythonic", "  [f(a='x',)]"),
        ("llama3_json", '<|python_tag|>f.call(a="x")'),
    ],
)
def test_calls_are_read_also_where_a_mark_is_missing(name, text):
    for deltas in ([text], list(text)):
        pieces = parse(name, deltas)
        assert calls(pieces) == ([("f", '{"a": "x"}')], "")
        assert any(isinstance(piece, ToolCallEnd) for piece in pieces)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pythonic", "[link](url) and [f(1)]"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[]"),
        ("pythonic", '{"city": "Paris"}'),
        ("pythonic", "[f(1)]"),
        ("pythonic", "[f(a=b)]"),
        ("pythonic", "[f(a=1.2.3)]"),
        ("pythonic", "[f(a==1)]"),
        ("pythonic", "[f(a"),
        ("llama4", "["),
        ("llama4", "I see <|python_st"),
        ("lfm2", "<|tool_call_start|>[]<|tool_call_end|>"),
        ("lfm2", "[f(a=1)]"),
        ("olmo3", "<function_calls>\nnone\n</function_calls>"),
        ("llama3_json", "<|python_tag|>plot(x=1)"),
        ("llama3_json", "<|python_tag|>import math"),
    ],
)
def test_text_that_is_not_a_call_comes_out_unchanged(name, text):
    for deltas in ([text], list(text)):
        assert calls(parse(name, deltas)) == ([], text)


def test_text_between_llama_4s_markers_is_content_and_the_calls_behind_them_are_read():
    call = '{"name": "f", "parameters": {}}'
    for deltas in ([text := f"<|python_start|>I look.<|python_end|>{call}{call}"], list(text)):
        assert calls(parse("llama4", deltas)) == ([("f", "{}"), ("f", "{}")], "<|python_start|>I look.")


@pytest.mark.parametrize("bad", ["[1, b]", "{1: 2}", "{'a', 'b'}", "['a': 1]", "'x'.upper()", "{]"])
def test_a_call_that_breaks_after_it_began_is_neither_complete_nor_text(bad):
    pieces = parse("lfm2", [f"<|tool_call_start|>[f(k='v', a={bad})]<|tool_call_end|>Bye."])
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)
    [(name, arguments)], content = calls(pieces)
    assert (name, content) in (("f", "Bye."), ("f", ""))
    with pytest.raises(ValueError):
        json.loads(arguments)


def test_strings_stream_as_they_are_written():
    parser = ToolCallParser(dialect_named("pythonic"), "seed")
    assert parser.feed("[f(a=") == []
    assert parser.feed("'two\\n")[1:] == [ToolCallArguments(0, '{"a": "two\\n')]
    assert parser.feed("words'") == [ToolCallArguments(0, "words")]
    assert parser.feed(", b=1)") == [ToolCallArguments(0, '", "b": 1}'), ToolCallEnd(0)]


@ENFORCED
def test_the_grammar_admits_what_python_writes(dialect):
    rng = Random(1)
    for _ in range(60):
        schema = an_object_schema(rng)
        grammar = dialect.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=False, marked=PLAIN)
        text = framed(dialect.name, call("f", an_instance(schema, rng, ("a", "é", "\n", '"', "'", "\\", "x"))))
        assert allows(grammar, text)
        assert not allows(grammar, text.replace("f(", "g("))


@ENFORCED
@pytest.mark.parametrize("strict", [True, False])
def test_what_the_grammar_admits_is_read_back_as_the_schema_wants_it(dialect, strict):
    rng = Random(2)
    opening, _, closing = FRAMES[dialect.name]
    quotes = ('"', "'", "\\n", "\\'", '\\"')
    fragments = (*PARTS, "city", "1", "True", "None", opening, "{", "[", ",", "]", "}", *quotes, ")", closing, "'", '"')
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
        assert found
        assert not content
        assert sum(isinstance(piece, ToolCallEnd) for piece in pieces) == len(found)
        for name, arguments in found:
            assert fits(json.loads(arguments), schema if name == "f" else NOTHING)
    assert ended > 50


@ENFORCED
def test_calls_are_parallel_only_when_that_is_allowed(dialect):
    rome = call("get_weather", {"city": "Rome"})
    for parallel in (True, False):
        for must_call in (True, False):
            functions = [OfferedFunction("get_weather", CITY, True)]
            grammar = dialect.grammar(functions, must_call=must_call, parallel=parallel, marked=PLAIN)
            assert allows(grammar, framed(dialect.name, rome))
            assert allows(grammar, framed(dialect.name, rome, rome)) is parallel
            assert allows(grammar, "It rains.") is not must_call


def test_olmos_markers_need_no_lines_of_their_own():
    grammar = OLMO3.grammar([OfferedFunction("f", CITY, True)], must_call=True, parallel=True, marked=PLAIN)
    assert allows(grammar, '<function_calls>f(city="x")\nf(city="y")</function_calls>')
    assert not allows(grammar, '<function_calls>f(city="x")f(city="y")</function_calls>')


def test_long_strings_and_much_white_space_are_read_in_linear_time():
    def seconds(size: int) -> float:
        began = time.process_time()
        for inner in ("x" * size, "' " * (size // 2), "'" + " " * size, "\\n" * (size // 2)):
            parser = ToolCallParser(dialect_named("pythonic"), "seed")
            for start in range(0, size, 4):
                parser.feed(("[f(a='" if not start else "") + inner[start : start + 4])
        parser = ToolCallParser(dialect_named("llama4"), "seed")
        parser.feed("<|python_start|>")
        for _ in range(size // 4):
            parser.feed("    ")
        return time.process_time() - began

    assert is_linear(seconds, 4_000)


@pytest.mark.parametrize("size", [10, 398, 399, 400, 401, 900])
def test_where_much_white_space_is_cut_does_not_matter(size):
    for text in ('{"name": "f", "parameters": {}}', "[f()]", '<|python_end|>{"name": "f", "parameters": {}}'):
        whole = "<|python_start|>" + " " * size + text
        one, *others = (parse("llama4", deltas) for deltas in cuttings(whole, Random(size)))
        assert all(pieces == one for pieces in others)


def test_a_name_that_no_argument_can_have_is_refused_if_strict_and_left_out_otherwise():
    schema = {"type": "object", "properties": {"a b": {"type": "string"}, "c": {"type": "integer"}}, "required": ["c"]}
    with pytest.raises(InvalidRequest, match="'a b'"):
        PYTHONIC.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=PLAIN)
    grammar = PYTHONIC.grammar([OfferedFunction("f", schema)], must_call=True, parallel=True, marked=PLAIN)
    assert allows(grammar, "[f(c=1)]")


def test_a_schema_may_refer_to_itself():
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    schema = {"type": "object", "properties": {"root": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    grammar = PYTHONIC.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=PLAIN)
    assert allows(grammar, "[f(root={'next': {'next': None}})]")
    assert not allows(grammar, "[f(root={'next': {'next': 1}})]")


@ENFORCED
def test_calls_that_a_template_leaves_out_are_written_as_they_are_read(dialect):
    rng = Random(3)
    for _ in range(30):
        made = [("f", arguments_of(rng)), ("g", arguments_of(rng))]
        found, content = calls(parse(dialect.name, [dialect.write_calls(made)]))
        assert ([(name, json.loads(arguments)) for name, arguments in found], content) == (made, "")
