"""What a function's schema says of its parameters."""

import time

import pytest

from api.reading.parameters import kinds_of, nested_kinds_of
from common.grammar.references import referred


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "text"),
        ({"enum": ["a", "b"]}, "text"),
        ({"const": "a"}, "text"),
        ({"anyOf": [{"type": "string"}, {"enum": ["x"]}]}, "text"),
        ({"type": "integer"}, "json"),
        ({"type": ["object", "null"]}, "json"),
        ({"oneOf": [{"type": "number"}, {"type": "array"}]}, "json"),
        ({"type": ["string", "null"]}, "text|null"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]}, None),
        ({"enum": ["a", 1]}, "text|integer"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]}, "text|array|null"),
        ({"$ref": "#/$defs/Color"}, "text"),
        ({"allOf": [{"$ref": "#/$defs/Color"}], "default": "red"}, "text"),
        ({"$ref": "#/$defs/Loop"}, None),
        ({"$ref": "#/nowhere"}, None),
        ({}, None),
        (True, None),
    ],
)
def test_a_parameter_is_text_json_both_or_left_out_as_mixed(schema, kind):
    named = {"Color": {"enum": ["red", "green"]}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "string"}]}}
    parameters = {"type": "object", "properties": {"p": schema}, "$defs": named}
    assert kinds_of(parameters) == ({"p": kind} if kind else {})


def test_references_to_each_other_are_looked_up_in_little_time():
    names = [f"A{number}" for number in range(60)]
    ways = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    parameters = {"properties": {"p": ways}, "$defs": dict.fromkeys(names, ways)}
    began = time.process_time()
    assert kinds_of(parameters) == {}
    assert time.process_time() - began < 5


@pytest.mark.parametrize("parameters", [None, {}, {"properties": []}])
def test_a_function_without_properties_has_no_kinds(parameters):
    assert kinds_of(parameters) == {}


def test_nested_kinds_are_listed_by_path_with_the_types_of_all_their_schemas():
    line = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"$ref": "#/$defs/name"}}}
    properties = {
        "list": {"type": "array", "items": line},
        "map": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "way": {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, line]},
        "any": {},
    }
    assert nested_kinds_of({"properties": properties, "$defs": {"name": {"type": "string"}}}) == {
        "list": "array",
        "list>item": "object",
        "list>item>n": "integer",
        "list>item>s": "text",
        "map": "null|object",
        "map>*": "text",
        "any": "mixed",
        "way": "object",
        "way>a": "text",
        "way>n": "integer",
        "way>s": "text",
    }


def test_a_reference_leads_through_lists_and_escapes():
    root = {"properties": {"a b": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}
    assert referred(root, "#/properties/a%20b/anyOf/1") == {"type": "string"}
    assert referred(root, "#/properties/a%20b/anyOf/2") is referred(root, "#/properties/a%20b/anyOf/x") is None
