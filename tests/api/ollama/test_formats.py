"""Schemas of `format` are closed where they say nothing."""

from api.ollama.formats import closed

TEXT = {"type": "string"}


def test_objects_are_closed_at_any_depth():
    inner = {"type": "object", "properties": {"a": TEXT}}
    shut = inner | {"additionalProperties": False}
    assert closed(inner) == shut
    assert closed({"properties": {"x": inner}, "$defs": {"D": inner}}) == {
        "properties": {"x": shut}, "$defs": {"D": shut}, "additionalProperties": False,
    }  # fmt: skip
    assert closed({"type": "array", "items": {"anyOf": [inner, TEXT]}}) == {
        "type": "array", "items": {"anyOf": [shut, TEXT]},
    }  # fmt: skip


def test_what_a_schema_says_is_kept():
    for said in ({"properties": {}, "additionalProperties": TEXT}, {"type": "object"}, {"properties": {}, "allOf": []}):
        assert closed(said) == said
    named = {"properties": {"properties": {"properties": {"properties": TEXT}}}}
    assert closed(named)["properties"]["properties"]["additionalProperties"] is False
    assert "additionalProperties" not in closed(named)["properties"]
    assert closed(True) is True and closed({"properties": 1, "items": False}) == {"properties": 1, "items": False}
