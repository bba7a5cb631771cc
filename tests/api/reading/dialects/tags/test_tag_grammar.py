"""What a grammar of values between tags admits is what is read back, and what the schema allows."""

import json
import re
from random import Random

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_named
from api.reading.parameters import kinds_of, nested_kinds_of
from common.errors import InvalidRequest
from common.grammar.answer import MarkedText
from common.grammar.check import GrammarCheck
from tests.api.reading.dialects.reading import calls, cuttings, parse
from tests.api.reading.dialects.tags.examples import TAGS
from tests.api.reading.dialects.walks import an_object_schema, fits, walk
from tests.grammars import PLAIN, allows

LIKED = ("a", "ab", "5", "true", "null", "[1]", "{", "\n", "é", '": ', "2020-01-02", "x@y.z", "｜DSML｜")
DEFS = {
    "Color": {"type": "string", "enum": ["red", "green"]},
    "Tree": {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
        "required": ["kids"],
        "additionalProperties": False,
    },
}


def fragments(name):
    """What a model may write, with the tags of the form; the last ones bring an answer to its end."""
    example = TAGS[name].allowed
    tags = re.findall(r"\n?(?:<[^<>]*>)+\n?|<\|[a-z]+\|>[^<]*", example)
    return (*LIKED, *dict.fromkeys(tags), *dict.fromkeys(reversed([*tags[-4:], '"'])))


def grammar_of(name, schema, marked=PLAIN, **rules):
    return dialect_named(name).grammar(
        [OfferedFunction("f", schema, True)], **{"must_call": True, "parallel": False, **rules}, marked=marked
    )


def read_back(name, text, schema, rng):
    """The arguments of each call; the same however the text is cut, and nothing is left over."""
    kinds = {"f": (nested_kinds_of if dialect_named(name).reads_nested_kinds else kinds_of)(schema)}
    found = [calls(parse(name, cutting, kinds)) for cutting in cuttings(text, rng)]
    assert found[0] == found[1] == found[2], text
    made, content = found[0]
    assert content.strip() == "", text
    assert {function for function, _ in made} == {"f"}
    return [json.loads(arguments) for _, arguments in made]


@pytest.mark.parametrize("name", TAGS)
def test_whatever_a_grammar_admits_is_read_back_as_the_schema_allows(name):
    num_read = 0
    for seed in range(24):
        rng = Random(seed)
        schema = an_object_schema(rng)
        grammar = grammar_of(name, schema, parallel=rng.random() < 0.5)
        for _ in range(2):
            if text := walk(grammar, rng, fragments(name), 240):
                found = read_back(name, text, schema, rng)
                assert found and all(fits(arguments, schema) for arguments in found), text
                num_read += 1
    assert num_read > 20


STRICT = [
    ({"type": "string", "pattern": "^[a-c]{2,4}$"}, lambda value: re.fullmatch("[a-c]{2,4}", value)),
    ({"type": "string", "pattern": "ab|^x"}, lambda value: re.search("ab|^x", value)),
    ({"type": "string", "pattern": r"^(?:a(?:.|\n)*b)$"}, lambda value: re.fullmatch(r"a(.|\n)*b", value)),
    ({"type": "string", "format": "date"}, lambda value: re.fullmatch(r"\d{4}-\d\d-\d\d", value)),
    ({"type": "string", "format": "cuid2", "pattern": "^[0-9a-z]+$"}, lambda value: re.fullmatch("[0-9a-z]+", value)),
    ({"type": ["string", "null"], "maxLength": 3}, lambda value: value is None or len(value) <= 3),
    ({"anyOf": [{"enum": ["a", "b\nc"]}, {"type": "null"}]}, lambda value: value in ("a", "b\nc", None)),
    ({"type": ["string", "integer"]}, lambda value: type(value) in (str, int)),
    ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 6}]}, lambda value: value not in (0, 1, 2, 3, 4, 5)),
    (
        {"type": ["string", "array"], "items": {"type": "boolean"}},
        lambda value: type(value) is str or all(item in (True, False) and type(item) is bool for item in value),
    ),
    ({"anyOf": [{"type": "string", "minLength": 2}, {"type": "boolean"}]}, lambda value: value != "a"),
    ({"$ref": "#/$defs/Color"}, lambda value: value in ("red", "green")),
    ({"allOf": [{"$ref": "#/$defs/Color"}]}, lambda value: value in ("red", "green")),
    ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, lambda value: value in ("red", "green", None)),
    ({"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "string"}]}, lambda value: isinstance(value, dict | str)),
    ({"type": "array", "items": {"$ref": "#/$defs/Color"}}, lambda value: set(value) <= {"red", "green"}),
    ({"enum": ["1", 1, "true", None]}, lambda value: value in ("1", 1, "true", None)),
    ({"type": "string", "enum": ["5"]}, lambda value: value == "5"),
    ({"const": "x y"}, lambda value: value == "x y"),
    ({}, lambda value: True),
]


@pytest.mark.parametrize("name", ["qwen3_xml", "glm", "minicpm5", "kimi_k3", "minimax_m3"])
def test_a_strict_string_is_enforced_without_quotes(name):
    check = GrammarCheck()
    for index, (rules, is_allowed) in enumerate(STRICT):
        schema = {"properties": {"p": rules}, "required": ["p"], "additionalProperties": False, "$defs": DEFS}
        grammar = grammar_of(name, {"type": "object", **schema})
        if index < 3:
            check.compiled(grammar)
        for seed in range(5):
            rng = Random(f"{index}/{seed}")
            if text := walk(grammar, rng, fragments(name), 160):
                [arguments] = read_back(name, text, schema, rng)
                assert is_allowed(arguments["p"]), text


def qwen(value, name="p"):
    return f"<tool_call>\n<function=f>\n<parameter={name}>\n{value}\n</parameter>\n</function>\n</tool_call>"


def one(rules, name="p"):
    return {"type": "object", "properties": {name: rules}, "required": [name], "additionalProperties": False}


@pytest.mark.parametrize(
    ("rules", "allowed", "refused"),
    [
        ({"type": "string"}, ["Rome", "", "5", "a\n\nb\n", '{"a": 1}', "a < b"], []),
        ({"enum": ["red", "two words"]}, ["red", "two words"], ["blue", '"red"', "red "]),
        ({"type": ["string", "null"]}, ["null", "x"], []),
        ({"type": "integer"}, ["5", "-3"], ["five", "5.5", '"5"']),
        ({"type": "boolean"}, ["true"], ["True", "yes"]),
        ({"type": "array", "items": {"type": "integer"}}, ["[1, 2]", "[]"], ["1, 2", '["1"]']),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, ['{"a": "x"}'], ["x", '{"a": 1}']),
        ({"type": ["string", "array"], "items": {"type": "integer"}}, ["x", "[1]"], ["[x", '["a"]']),
        ({"type": "string", "maxLength": 2000, "minLength": 1}, ["x" * 2000], ["x" * 2001, ""]),
        ({"type": "string", "format": "uuid"}, ["0190a5b2-4f5c-7d3e-8a1b-2c3d4e5f6a7b"], ["x"]),
    ],
)
def test_values_are_written_as_the_template_writes_them(rules, allowed, refused):
    grammar = grammar_of("qwen3_xml", one(rules))
    assert [value for value in allowed if not allows(grammar, qwen(value))] == []
    assert [value for value in refused if allows(grammar, qwen(value))] == []


def test_a_function_s_tag_without_its_wrapper_is_held_to_the_same_rules():
    grammar = grammar_of("qwen3_xml", one({"enum": ["red"]}), must_call=False, parallel=True)
    bare = qwen("red").removeprefix("<tool_call>\n")
    assert allows(grammar, "I look.\n" + bare)
    assert not allows(grammar, "I look.\n" + bare.replace("red", "blue"))
    assert allows(grammar, "A < b, and no call.")


@pytest.mark.parametrize(
    "rules",
    [
        {"type": "string", "not": {"const": "a"}},
        {"type": "string", "format": "cuid2"},
        {"allOf": [{"type": "string", "minLength": 1}, {"minLength": 2}]},
        {"type": "string", "enum": []},
    ],
)
def test_what_cannot_be_enforced_is_refused_in_a_strict_schema(rules):
    with pytest.raises(InvalidRequest) as refused:
        grammar_of("qwen3_xml", one(rules))
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("form", "name"),
    [("qwen3_xml", "a>b"), ("minimax_m2", 'a"b'), ("glm", "a<b"), ("glm", "")]
    + [(form, name) for form in TAGS for name in ("a\rb", "a\ab", "a\0b")],
)
def test_a_name_that_no_tag_can_hold_is_refused_only_where_it_must_be_written(form, name):
    with pytest.raises(InvalidRequest, match="cannot name the parameter"):
        grammar_of(form, one({"type": "string"}, name))
    optional = {**one({"type": "string"}, name), "required": []}
    assert grammar_of(form, optional) is not None


def test_required_parameters_without_a_schema_are_written_too():
    grammar = grammar_of("qwen3_xml", {"type": "object", "required": ["p"]})
    assert allows(grammar, qwen("x"))
    assert not allows(grammar, qwen("x", "q"))


@pytest.mark.parametrize("name", TAGS)
def test_tags_that_are_special_tokens_are_written_by_their_ids(name):
    ending = re.findall(r"</?[^<>]*>|<\|[a-z]+\|>", TAGS[name].allowed)[-1]
    grammar = grammar_of(name, one({"type": ["string", "null"], "maxLength": 9}), MarkedText({ending: 7}))
    assert "<[7]>" in grammar.text
    GrammarCheck().compiled(grammar)


def test_a_strict_parameter_may_refer_to_an_alternative_of_another():
    first = {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]}
    properties = {"a b": first, "p": {"$ref": "#/properties/a%20b/anyOf/0"}}
    schema = {"type": "object", "properties": properties, "required": ["p"], "additionalProperties": False}
    grammar = grammar_of("qwen3_xml", schema)
    assert allows(grammar, qwen("x"))
    assert not allows(grammar, qwen("z"))
