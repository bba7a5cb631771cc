"""The translation of JSON schemas to rules of another notation, beyond what random schemas show."""

import time
from typing import Any

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.literals.gemma import GEMMA4
from api.reading.dialects.literals.pythonic import PYTHONIC
from common.errors import InvalidRequest
from common.grammar.answer import Grammar
from common.grammar.check import GrammarCheck
from tests.grammars import PLAIN, allows


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def grammar_of(schema: dict[str, Any], *, strict: bool = True) -> Grammar | None:
    return PYTHONIC.grammar([OfferedFunction("f", schema, strict)], must_call=True, parallel=False, marked=PLAIN)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "{'x': 1, 'y': 2}", "{'x': None}"),
        ({"type": "object"}, "{'x': [1, {'y': True}]}", "[]"),
        ({"type": "array"}, "[1, 'x', {}]", "{}"),
        ({"type": "array", "maxItems": 0}, "[]", "[1]"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1, 2, 3]", "[1]"),
        ({"enum": [1, "x", None]}, "None", "2"),
        ({"type": "string", "enum": [1, "x"]}, "'x'", "1"),
        ({"const": {"k": [True]}}, "{'k': [True]}", "{'k': [False]}"),
        ({"type": "integer", "minimum": 3, "maximum": 12}, "12", "13"),
        ({"type": "number", "exclusiveMinimum": 0}, "0.5", "0"),
        ({"type": "string", "maxLength": 2}, '"éx"', '"éxy"'),
        ({"type": "string", "minLength": 2}, r"'\n\''", "'x'"),
        ({"anyOf": [{"enum": ["celsius"]}, {"type": "string", "maxLength": 3}]}, "'cel'", "'cels'"),
        ({"properties": {"x": {}}, "required": ["x"], "additionalProperties": False}, "{'x': 1}", "{}"),
        (True, "1", "f"),
    ],
)
def test_a_value_follows_its_schema(schema, good, bad):
    grammar = grammar_of(an_object(a=schema, b={"type": "boolean"}))
    assert allows(grammar, f"[f(a={good}, b=True)]")
    assert not allows(grammar, f"[f(a={bad}, b=True)]")


def test_arguments_that_are_not_required_may_be_missing_but_keep_their_order():
    schema = an_object(a={"type": "integer"}, b={"type": "integer"}, c={"type": "integer"}) | {"required": ["b"]}
    for written, is_allowed in (
        ("b=1", True),
        ("a=1, b=1", True),
        ("b=1, c=1", True),
        ("a=1", False),
        ("c=1, b=1", False),
    ):
        assert allows(grammar_of(schema), f"[f({written})]") is is_allowed


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"$ref": "#/$defs/missing"}, "$ref"),
        ({"type": "string", "enum": [1]}, "enum"),
        ({"type": "array", "prefixItems": [{}]}, "prefixItems"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "type"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name_for_strict_functions_only(schema, keyword):
    with pytest.raises(InvalidRequest, match=f"'\\{keyword}'" if keyword[0] == "$" else f"'{keyword}'"):
        grammar_of(an_object(a=schema))
    assert not allows(grammar_of(an_object(a=schema), strict=False), "[f()]")


def test_a_large_set_of_functions_stays_within_the_limits_and_is_translated_fast():
    property_schema = {"type": ["string", "null"]}
    schema = an_object(**{f"parameter_{number}": property_schema for number in range(8)})
    functions = [OfferedFunction(f"function_{number}", schema, strict=True) for number in range(60)]
    for dialect in (GEMMA4, PYTHONIC):
        began = time.process_time()
        grammar = dialect.grammar(functions, must_call=True, parallel=True, marked=PLAIN)
        assert time.process_time() - began < 5
        assert grammar is not None
        GrammarCheck().compiled(grammar)


def test_a_long_chain_of_references_is_followed():
    chain = {f"n{number}": an_object(next={"$ref": f"#/$defs/n{number + 1}"}) for number in range(400)}
    schema = an_object(a={"$ref": "#/$defs/n0"}) | {"$defs": {**chain, "n400": {"type": "null"}}}
    assert grammar_of(schema) is not None
