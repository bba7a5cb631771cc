"""Grammars of an answer's text: the texts that each form allows, and the forms that are refused."""

import subprocess
import sys
import time

import pytest

from common.errors import InvalidRequest
from common.grammar.answer import (
    MAX_GRAMMAR_BYTES,
    MAX_NESTING,
    choice_grammar,
    ebnf_grammar,
    json_object_grammar,
    json_schema_grammar,
    regex_grammar,
    structured_grammar,
)
from common.grammar.check import GrammarCheck
from common.grammar.json_schema import LARGEST_INTEGER, checked_schema, relaxed_schema, repeats
from tests.grammars import CITY, TREE, allows


@pytest.fixture(scope="module")
def check():
    return GrammarCheck()


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (json_object_grammar(), '{"a": [1, {"b": null}]}', "[1]"),
        (json_schema_grammar(CITY, "x"), '{\n  "city": "Rome"\n}', '{"city": 1}'),
        (json_schema_grammar(CITY, "x"), '{"city":"Rome"}', '{"city": "Rome", "days": 1}'),
        (json_schema_grammar(CITY, "x"), '{"city":"Rome"}', '{"city":' + " " * 60 + '"Rome"}'),
        (json_schema_grammar(TREE, "x"), '{"root": {"next": null}}', '{"root": null}'),
        (regex_grammar(r"\d{2}/\d{2}", "x"), "12/34", "1/234"),
        (regex_grammar("a\nb\\\nc", "x"), "a\nb\nc", "anb"),  # re.escape() writes a backslash before a line's end
        (choice_grammar(["yes", 'no "way"'], "x"), 'no "way"', "maybe"),
        (ebnf_grammar('start: "a" b\nb: "c"+', "x"), "acc", "a"),
        (ebnf_grammar('root ::= "a" [0-9]+', "x"), "a12", "ab"),
        (structured_grammar({"regex": "[ab]+", "json": None}), "abba", "c"),
        (structured_grammar({"json": '{"type": "integer"}'}), "12", "x"),
    ],
)
def test_each_form_allows_its_texts_and_no_others(check, grammar, good, bad):
    assert check.compiled(grammar) == grammar.text
    assert allows(grammar, good)
    assert not allows(grammar, bad)


@pytest.mark.parametrize(
    ("build", "param"),
    [
        (lambda: json_schema_grammar(nested(40), "response_format"), "response_format"),
        (lambda: json_schema_grammar({"$ref": "https://example.com/x"}, "response_format"), "response_format.$ref"),
        (lambda: json_schema_grammar({"type": "array", "minItems": 10**7}, "guided_json"), "guided_json.minItems"),
        (lambda: json_schema_grammar({"pattern": "((a{1,999}){1,999}){9}"}, "guided_json"), "guided_json.pattern"),
        (lambda: json_schema_grammar({"enum": ["x" * MAX_GRAMMAR_BYTES]}, "response_format"), "response_format"),
        (lambda: json_schema_grammar([], "response_format"), "response_format"),
        (lambda: json_schema_grammar({"type": "object", "not": {}}, "response_format"), "response_format"),
        (lambda: json_schema_grammar({"type": "integer", "multipleOf": 999999937}, "x"), "x.multipleOf"),
        (lambda: json_schema_grammar({"$ref": "#"}, "x"), "x"),
        (lambda: regex_grammar("(a", "guided_regex"), "guided_regex"),
        (lambda: regex_grammar("(?=a)b", "guided_regex"), "guided_regex"),
        (lambda: regex_grammar("(.{999}){999}", "guided_regex"), "guided_regex"),
        (lambda: choice_grammar([], "guided_choice"), "guided_choice"),
        (lambda: choice_grammar([""], "guided_choice"), "guided_choice"),
        (lambda: ebnf_grammar("root ::= " + "(" * 9000, "guided_grammar"), "guided_grammar"),
        (lambda: ebnf_grammar("start: a\na: a", "guided_grammar"), "guided_grammar"),
        (lambda: structured_grammar({"regex": "a", "choice": ["a"]}), "structured_outputs"),
        (lambda: structured_grammar({"structural_tag": "x"}), "structured_outputs.structural_tag"),
        (lambda: structured_grammar({"json": "{"}), "structured_outputs.json"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_enforced_is_refused_and_its_field_named(check, build, param):
    with pytest.raises(InvalidRequest) as refused:
        check.compiled(build())
    assert refused.value.param == param
    assert len(refused.value.message) < 500


def test_a_bomb_is_defused_in_bounded_time(check):
    patterns = [{"type": "string", "pattern": ".*" + "abcdefghij"[i % 10] * (i + 1) + ".*"} for i in range(20)]
    started = time.process_time()
    with pytest.raises(InvalidRequest):
        check.compiled(json_schema_grammar({"allOf": patterns}, "response_format"))
    assert time.process_time() - started < 20


@pytest.mark.parametrize("rule", [{"pattern": "a"}, {"format": "uri"}, {"multipleOf": 7}, {"allOf": [{}]}])
def test_grammars_that_may_compile_slowly_are_costly(rule):
    assert json_schema_grammar({"type": "object", "properties": {"a": rule}}, "x").is_costly
    assert not json_schema_grammar({"type": "object", "properties": {key: {} for key in rule}}, "x").is_costly


def test_a_good_costly_grammar_is_tried_once(check, monkeypatch):
    grammar = regex_grammar("[a-f]{4}", "guided_regex")
    check.compiled(grammar)
    monkeypatch.setattr(subprocess, "run", None)
    assert check.compiled(grammar) == grammar.text


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("abc", 1), ("a{3}", 3), ("(a{2}b{5}){10}", 50), (r"\({9}", 9), ("(a)(b{4})", 4), ("((a{2}){3}){4,}", 24)],
)
def test_repeats_multiply_where_groups_are_nested(pattern, count):
    assert repeats(pattern) == count


def test_annotations_are_left_out_but_not_properties_of_the_same_name():
    schema = {"title": "T", "type": "object", "properties": {"title": {"type": "string", "description": "d"}}}
    assert checked_schema(schema, "x") == {"type": "object", "properties": {"title": {"type": "string"}}}


def test_a_function_that_is_not_strict_keeps_its_shape_only():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)", "format": "odd"}}}
    relaxed = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert relaxed_schema(schema, "tools") == relaxed
    assert relaxed_schema({"$ref": "https://example.com"}, "tools") == {"type": "object"}


@pytest.mark.parametrize("bounds", [{"maxLength": -1}, {"minLength": 3, "maxLength": 2}, {"maximum": "5"}])
def test_plausible_bounds_are_kept_and_others_dropped(bounds):
    good = {"type": "string", "minLength": 1, "maxLength": 20}
    assert relaxed_schema(good, "tools") == good
    assert relaxed_schema({"type": "string", **bounds}, "tools") == {"type": "string"}


def test_checking_grammars_loads_no_torch():
    code = "import sys, common.grammar.check; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_integer_has_at_most_64_bits():
    grammar = json_schema_grammar({"type": "integer"}, "x")
    assert allows(grammar, str(LARGEST_INTEGER))
    assert allows(grammar, str(-LARGEST_INTEGER))
    assert not allows(grammar, "1" * 30)


@pytest.mark.parametrize(
    "build",
    [lambda: regex_grammar("a[^\\x00-\\u{10ffff}]", "x"), lambda: ebnf_grammar('start: a\na: a "b"', "x")],
    ids=["an empty class", "a rule without an end"],
)
def test_a_grammar_that_no_text_can_fulfil_is_refused_with_a_sentence(build):
    with pytest.raises(InvalidRequest, match="no text can fulfil it"):
        GrammarCheck().compiled(build())


@pytest.mark.parametrize(
    "build",
    [
        lambda depth: regex_grammar("(" * depth + "a" + ")" * depth, "guided_regex"),
        lambda depth: ebnf_grammar("root ::= " + "(" * depth + '"a"' + ")" * depth, "guided_grammar"),
    ],
    ids=["regex", "GBNF"],
)
def test_groups_inside_one_another_are_counted(build):
    assert GrammarCheck().compiled(build(MAX_NESTING))
    for depth in (MAX_NESTING + 1, 20_000):
        with pytest.raises(InvalidRequest, match="more than 100 groups inside one another"):
            build(depth)


def test_parentheses_in_literal_text_are_not_groups():
    assert regex_grammar("[](]\\([^(]" * 500, "x")
    assert ebnf_grammar('root ::= "(((" [(]' + ' "(" [^(]' * 500, "x")


def test_a_choice_may_hold_any_character():
    texts = [f"a{chr(code)}b" for code in (*range(32), 0x7F, 0x80, 0x2028, 0xE000)]
    assert all(allows(choice_grammar(texts, "choice"), text) for text in texts)
