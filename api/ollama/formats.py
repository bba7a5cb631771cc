"""The schema of `format`, as Ollama enforces it: an object has no properties but those that are named."""

from typing import Any

MAPS = ("properties", "$defs", "definitions", "patternProperties")  # name -> schema
LISTS = ("anyOf", "oneOf", "prefixItems")  # not allOf, whose parts name properties of one object


def closed(schema: Any) -> Any:
    """The schema with objects closed where it says nothing of further properties."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for name in MAPS:
        if isinstance(inner := schema.get(name), dict):
            found[name] = {key: closed(part) for key, part in inner.items()}
    for name in LISTS:
        if isinstance(inner := schema.get(name), list):
            found[name] = [closed(part) for part in inner]
    if "items" in schema:
        found["items"] = closed(schema["items"])
    if isinstance(schema.get("properties"), dict) and "allOf" not in schema:
        found.setdefault("additionalProperties", False)
    return found
