"""What a function's schema says of its parameters, for dialects that write strings without quotes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

ParameterKind = Literal["text", "mixed", "json"]  # strings only; strings or other values; no strings
Kinds = Mapping[str, Mapping[str, ParameterKind]]  # {function: {parameter: kind}}; what is not listed is `mixed`
NO_KINDS: Kinds = MappingProxyType({})
MAX_DEPTH = 8  # of schemas inside anyOf and the like


def kinds_of(parameters: Mapping[str, Any] | None) -> dict[str, ParameterKind]:
    """The kinds of one function's parameters, from the JSON schema of its arguments. `mixed` is left out."""
    properties = (parameters or {}).get("properties")
    if not isinstance(properties, dict):
        return {}
    kinds = {name: _kind(schema) for name, schema in properties.items()}
    return {name: kind for name, kind in kinds.items() if kind != "mixed"}


def _kind(schema: Any) -> ParameterKind:
    types = _types(schema, MAX_DEPTH)
    if not types:
        return "mixed"
    if "string" not in types:
        return "json"
    return "text" if types == {"string"} else "mixed"


def _types(schema: Any, depth: int) -> set[str]:
    """The JSON types that a schema allows; empty if it does not say."""
    if not isinstance(schema, dict) or not depth:
        return set()
    said = schema.get("type")
    if isinstance(said, str):
        return {said}
    if isinstance(said, list):
        return {name for name in said if isinstance(name, str)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        return {"string" if isinstance(value, str) else "other" for value in values}
    for name in ("anyOf", "oneOf"):
        if isinstance(ways := schema.get(name), list) and ways:
            found = [_types(way, depth - 1) for way in ways]
            return set().union(*found) if all(found) else set()
    return set()
