"""What a function's schema says of its parameters."""

import pytest

from api.reading.parameters import kinds_of


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
        ({"type": ["string", "null"]}, None),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]}, None),
        ({"enum": ["a", 1]}, None),
        ({}, None),
        (True, None),
    ],
)
def test_a_parameter_is_text_json_or_left_out_as_mixed(schema, kind):
    assert kinds_of({"type": "object", "properties": {"p": schema}}) == ({"p": kind} if kind else {})


@pytest.mark.parametrize("parameters", [None, {}, {"properties": []}])
def test_a_function_without_properties_has_no_kinds(parameters):
    assert kinds_of(parameters) == {}
