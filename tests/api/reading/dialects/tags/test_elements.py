"""Lists and objects as elements (MiniMax M3): read back as they were meant, and enforced as the schema has them."""

import json
import time
from random import Random

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_named
from api.reading.dialects.tags.elements import as_elements
from api.reading.parameters import MAX_NESTED, nested_kinds_of
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from common.errors import InvalidRequest
from common.grammar.answer import MarkedText
from common.grammar.check import GrammarCheck
from tests.api.reading.dialects.reading import calls, cuttings, parse
from tests.api.reading.dialects.walks import a_schema, an_instance, fits, walk
from tests.grammars import PLAIN, allows

M = "]<]minimax[>["
DIALECT = dialect_named("minimax_m3")
TEXTS = ("Paris", "5", "true", "null", "[1]", "\n", " ", '"', "<b>", "</item>", "]<", "東京", "é", "{", "\\n")
LINE = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["path"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/properties/p"}}},
    "required": ["name"],
    "additionalProperties": False,
}


def one(rules):
    return {"type": "object", "properties": {"p": rules}, "required": ["p"], "additionalProperties": False}


def closed(**types):
    """An object with these members and no others."""
    members = {name: {"type": kind} for name, kind in types.items()}
    return {"type": "object", "properties": members, "required": list(types), "additionalProperties": False}


def written(arguments):
    """A call of f as the template writes it."""
    return f'{M}<tool_call>\n{M}<invoke name="f">{as_elements(arguments, M)}{M}</invoke>\n{M}</tool_call>'


def elements(text):
    """Elements with the mark before each tag."""
    return text.replace("<", f"{M}<")


def read(text, schema, rng=None):
    """The arguments of each call, however the text is cut."""
    kinds = {"f": nested_kinds_of(schema)}
    found = [calls(parse("minimax_m3", cutting, kinds)) for cutting in cuttings(text, rng or Random(text))]
    assert found[0] == found[1] == found[2], text
    assert found[0][1].strip() == "", text
    return [json.loads(arguments) for _, arguments in found[0][0]]


def grammar_of(schema, *, strict=True, must_call=True, parallel=False, marked=PLAIN):
    return DIALECT.grammar(
        [OfferedFunction("f", schema, strict)], must_call=must_call, parallel=parallel, marked=marked
    )


@pytest.mark.parametrize(
    ("rules", "text", "value"),
    [
        ({"type": "array", "items": {"type": "string"}}, "<item>5</item><item></item>", ["5", ""]),
        ({"type": "array", "items": {"type": "integer"}}, "<item>5</item>\n<item>-1</item>\n", [5, -1]),
        ({"type": "array"}, "", []),
        ({"type": "object"}, "", {}),
        ({"type": ["string", "array"]}, "", ""),
        ({"type": ["integer", "null"]}, "", None),
        ({"type": "array", "items": LINE}, "<item><path>1</path><count>2</count></item>", [{"path": "1", "count": 2}]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "<A>5</A><B>x</B>", {"A": "5", "B": "x"}),
        ({"type": "object"}, "<item>5</item>", {"item": 5}),
        ({}, "<item>5</item><item>five</item>", [5, "five"]),
        ({}, "<a><b>1</b></a><a>2</a>", {"a": {"b": 1}}),
        ({"type": "array"}, '[1, {"a": 2}]', [1, {"a": 2}]),
        ({"type": "object"}, "{'a': True}", {"a": True}),
        ({}, "[1]", "[1]"),
        ({"type": ["string", "array"]}, "a <item>5</item>", f"a {M}<item>5{M}</item>"),
        ({"$ref": "#/$defs/line"}, "<path>null</path>", {"path": "null"}),
        ({"type": "object", "properties": {"p": LINE}}, "<p><path>x</path></p>", {"p": {"path": "x"}}),
    ],
)
def test_elements_are_what_the_schema_says(rules, text, value):
    schema = {**one(rules), "$defs": {"line": LINE}}
    assert read(written({"p": elements(text)}), schema) == [{"p": value}]


def test_what_the_template_writes_is_read_back_however_it_is_cut():
    rng = Random(3)
    num_read = 0
    while num_read < 300:
        schema = one(a_schema(rng, 3))
        value = an_instance(schema, rng, TEXTS)
        if as_elements(value, M) != as_elements(without_nothing(value), M) or is_ambiguous(schema["properties"]["p"]):
            continue
        assert read(written(value), schema, rng) == [value], schema
        num_read += 1


def without_nothing(value):
    """Without nulls, which the template leaves out."""
    if isinstance(value, dict):
        return {name: without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [without_nothing(item) for item in value if item is not None] if isinstance(value, list) else value


def is_ambiguous(schema):
    """True where a value may be of several types, so that the text of one is that of another too."""
    inside = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    is_one = isinstance(schema.get("type"), str) or {type(value) for value in schema.get("enum", ())} == {str}
    return not is_one or any(map(is_ambiguous, inside))


FRAGMENTS = (
    *("a", "5", "true", "null", "[1]", "\n", "é", "x]<]mini"),
    *(f"<{name}>" for name in ("p", "city", "b", "Days", "a_c", "unit", "k")),
    *(f"</{name}>{M}" for name in ("city", "b", "Days", "a_c", "unit", "k")),
    *("<item>", f"</item>{M}", f"</p>{M}", f"{M}</", M),
)


def test_whatever_a_grammar_admits_is_read_back_as_the_schema_allows():
    num_read = num_trees = 0
    for seed in range(60):
        rng = Random(seed)
        rules = a_schema(rng, 3)
        try:
            grammar = grammar_of(one(rules), parallel=rng.random() < 0.5)
        except InvalidRequest as refused:
            assert "No value of the parameter" in str(refused)
            continue
        for _ in range(2):
            if text := walk(grammar, rng, FRAGMENTS, 200):
                found = read(text, one(rules), rng)
                assert found and all(fits(arguments, one(rules)) for arguments in found), (rules, text)
                num_read += 1
                num_trees += f"{M}<item>" in text or f"{M}<b>" in text
    assert num_read > 60
    assert num_trees > 9


@pytest.mark.parametrize(
    ("rules", "allowed", "refused"),
    [
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            ["<item>1</item>", "<item>1</item><item>2</item>"],
            ["", "<item>x</item>", "[1]", "<item>1</item><item>2</item><item>3</item>"],
        ),
        (
            {"type": "array", "items": LINE},
            ["", "<item><path>a & b</path></item>", "<item><path></path><count>3</count></item>"],
            ["<item><count>3</count></item>", "<item><path>x</path><other>y</other></item>", "<path>x</path>"],
        ),
        (TREE, ["<name>a</name>", "<name>a</name><kids><item><name>b</name></item></kids>"], ["<kids></kids>"]),
        ({"type": ["array", "null"], "items": {}}, ["", "null", "<item><a>x</a></item>"], ["x"]),
        ({"enum": [[1, "x"], {"k": "v"}]}, ["<item>1</item><item>x</item>", "<k>v</k>"], ["<k>w</k>", ""]),
        (
            {"type": "object", "additionalProperties": {"type": "boolean"}},
            ["", "<a>true</a><b>false</b>"],
            ["<a>x</a>", "a"],
        ),
        (
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
            ["<item>a</item><item>1</item>"],
            ["<item>1</item><item>a</item>", "<item>a</item>"],
        ),
        (
            {"anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, LINE]},
            ["<path>x</path>"],
            ["<other>x</other>"],
        ),
        (
            {
                "anyOf": [
                    {"type": "array", "items": LINE},
                    {"type": "object", "additionalProperties": {"type": "string"}},
                ]
            },
            ["", "<a>x</a>", "<item><path>x</path></item>"],
            ["<item>x</item>"],
        ),
        (
            {"type": "array", "items": {"anyOf": [{"type": "string", "maxLength": 5}, {"enum": [7]}]}},
            ["<item>a</item>", "<item>7</item>"],
            ["<item>8</item>"],
        ),
        (
            {"anyOf": [closed(a="string", b="string"), closed(a="integer")]},
            ["<a>x</a><b>5</b>", "<a>5</a>"],
            ["<a>5</a><b>y</b>", "<a>x</a>"],
        ),
        ({"anyOf": [{"type": "array", "minItems": 1}, {"type": "object"}]}, ["<item>1</item>", "<a>1</a>"], [""]),
        ({"anyOf": [{"type": "array", "minItems": 1}, {**closed(a="null"), "required": []}]}, ["<a>null</a>"], [""]),
        ({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array"}]}, ["x", "<item>1</item>"], [""]),
        ({}, ["x", "", "<a><item>1</item></a>"], []),
    ],
)
def test_nested_values_are_enforced_as_the_template_writes_them(rules, allowed, refused):
    grammar = grammar_of(one(rules))
    GrammarCheck().compiled(grammar)
    assert [text for text in allowed if not allows(grammar, written({"p": elements(text)}))] == []
    assert [text for text in refused if allows(grammar, written({"p": elements(text)}))] == []


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"type": "array", "items": {"type": "string", "format": "cuid2"}}, "cuid2"),
        ({"type": "object", "properties": {"a/b": {}}, "required": ["a/b"]}, "'p'"),
    ],
)
def test_what_cannot_be_enforced_is_refused_in_a_strict_schema_alone(rules, named):
    with pytest.raises(InvalidRequest, match=named) as refused:
        grammar_of(one(rules))
    assert refused.value.param == "tools"
    GrammarCheck().compiled(grammar_of(one(rules), strict=False))


def test_a_function_without_a_schema_is_free_beside_a_strict_one():
    functions = [OfferedFunction("g", one(LINE), True), OfferedFunction("f", {"type": "object"})]
    grammar = DIALECT.grammar(functions, must_call=False, parallel=True, marked=PLAIN)
    text = written({"a": [1, {"b": "x"}], "c": "y"})
    assert allows(grammar, text)
    assert not allows(grammar, text.replace('"f"', '"g"'))
    assert read(text, {}) == [{"a": [1, {"b": "x"}], "c": "y"}]


def test_a_mark_that_is_a_special_token_is_written_by_its_id():
    schema = one({"type": ["string", "array"], "items": TREE})
    grammar = grammar_of(schema, marked=MarkedText({M: 7, "<tool_call>": 8, "</tool_call>": 9}))
    assert M not in grammar.text
    GrammarCheck().compiled(grammar)


def test_a_text_streams_and_a_tree_comes_at_its_end():
    parser = ToolCallParser(DIALECT, "seed", {"f": nested_kinds_of({"properties": {"s": {"type": "string"}}})})
    parser.feed(f'{M}<tool_call>\n{M}<invoke name="f">{M}<s>')
    assert parser.feed('one "two"') == [ToolCallArguments(0, 'one \\"two\\"')]
    assert parser.feed("]<]mini") == []
    assert parser.feed("mal") == [ToolCallArguments(0, "]<]minimal")]
    parser.feed(f"{M}</s>{M}<o>")
    assert parser.feed(f"{M}<a>1{M}</a>") == []
    assert parser.feed(f"{M}</o>{M}</") == [ToolCallArguments(0, '{"a": 1}')]


def test_elements_that_break_leave_the_call_incomplete_and_no_markup():
    text = written({"p": f"x{M}<item>1{M}</item>"})
    pieces = parse("minimax_m3", list(text + "Bye."), {"f": nested_kinds_of(one({"type": "array"}))})
    assert calls(pieces)[1] == "Bye."
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)


def test_nested_kinds_are_bounded_for_schemas_that_refer_to_themselves():
    ways = [{"type": "object", "properties": {f"p{number}": {"$ref": "#"}}} for number in range(30)]
    schema = {"properties": {"p": {"anyOf": ways}}, "anyOf": ways}
    kinds = nested_kinds_of(schema)
    assert 30 < len(kinds) <= MAX_NESTED
    assert kinds["p>p1"] == "object"
    grammar_of({"type": "object", "properties": schema["properties"], "$defs": {}}, strict=False)


def test_a_schema_of_many_ways_to_itself_is_translated_in_a_moment():
    way = {"$ref": "#/$defs/way"}
    ways = [{"type": "object", "properties": {"a": dict(way)}} for _ in range(20)]
    schema = {**one(way), "$defs": {"way": {"anyOf": ways}}}
    began = time.process_time()
    grammar_of(schema)
    assert time.process_time() - began < 20  # without a memory it ran for minutes
