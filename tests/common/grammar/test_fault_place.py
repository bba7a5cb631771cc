"""A refusal of a schema names the place in it, and says what its keyword takes."""

from typing import Any

import pytest

from common.errors import InvalidRequest
from common.grammar.answer import json_schema_grammar
from common.grammar.check import GrammarCheck, fault_of
from common.grammar.fault_place import placed


@pytest.fixture(scope="module")
def check() -> GrammarCheck:
    return GrammarCheck()


def refused(check: GrammarCheck, schema: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        check.compiled(json_schema_grammar(schema, "s"))
    assert refusal.value.message.startswith(f"'{refusal.value.param}' ")
    return refusal.value


def within(node: Any) -> dict[str, Any]:
    """An object with this property among a hundred others."""
    others = {f"p{number}": {"type": "string"} for number in range(100)}
    return {"type": "object", "properties": {**others, "x": node, "y": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("node", "place", "says"),
    [
        ({"type": "strin"}, ".type", "one of array, boolean, integer"),
        ({"anyOf": [{"type": "null"}, {"items": {"type": ["nil"]}}]}, ".anyOf[1].items.type", "Invalid type: nil"),
        ("string", "", "an object or boolean"),
        ({"type": "array", "items": "string"}, ".items", "an object or boolean"),
        ({"type": "object", "properties": ["a"]}, ".properties", "an object"),
        ({"type": "object", "required": "a"}, ".required", "Expected array"),
        ({"enum": "a"}, ".enum", "an array"),
        ({"type": "array", "minItems": -1}, ".minItems", "positive integer"),
        ({"type": "array", "minItems": 10**9}, ".minItems", "at most 100000"),
        ({"type": "integer", "minimum": "1"}, ".minimum", "Expected"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems", "Leave it out"),
        ({"$ref": "#/$defs/none"}, ".$ref", "'/$defs/none' does not exist"),
        ({"$ref": "other.json"}, ".$ref", "only references within the schema"),
        ({"type": "string", "format": "phone"}, ".format", "date-time, duration, email"),
        ({"type": "string", "pattern": "("}, ".pattern", "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, ".pattern", "look-around"),
        ({"type": "number", "multipleOf": 0}, ".multipleOf", "above 0"),
        ({"oneOf": [{"type": "string"}, {"minLength": 3}]}, ".oneOf", "Write anyOf"),
        ({"type": "object", "properties": {"a/b~c": {"type": "x"}}}, ".properties.a/b~c.type", "one of"),
    ],
)  # fmt: skip
def test_the_place_of_a_fault_is_named(check: GrammarCheck, node: Any, place: str, says: str) -> None:
    refusal = refused(check, within(node))
    assert refusal.param == f"s.properties.x{place}"
    assert says in refusal.message and "processing" not in refusal.message and len(refusal.message) < 500


def test_a_fault_of_the_whole_and_one_behind_a_reference_are_placed_too(check: GrammarCheck) -> None:
    assert refused(check, {"type": "strin"}).param == "s.type"
    item = {"type": "array", "items": {"$ref": "#/$defs/item"}, "$defs": {"item": {"type": "x"}}}
    assert refused(check, item).param == "s.$defs.item.type"


def test_the_place_is_found_by_halves(check: GrammarCheck) -> None:
    """A request that is refused costs a few compilations, not one for each property."""
    grammar, num_compiled = json_schema_grammar(within({"type": "strin"}), "s"), 0

    def compiled(text: str) -> str | None:
        nonlocal num_compiled
        num_compiled += 1
        return fault_of(text, check._tokenizer)

    fault = compiled(grammar.text)
    assert fault is not None and placed(grammar.text, fault, compiled)[0] == ".properties.x.type"
    assert num_compiled < 30
