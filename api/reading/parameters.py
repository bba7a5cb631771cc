"""What a function's schema says of its parameters, for dialects that write strings without quotes.

A parameter's kind is `text` (strings only), `json` (no strings), `mixed` (the schema does not say) or `text|` with the
other JSON types that it may have besides a string, as in `text|null`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ParameterKind = str
Kinds = Mapping[str, Mapping[str, ParameterKind]]  # {function: {parameter: kind}}; what is not listed is `mixed`
NO_KINDS: Kinds = MappingProxyType({})
MAX_DEPTH = 8  # of schemas inside anyOf and the like, and of references to references


def kinds_of(parameters: Mapping[str, Any] | None) -> dict[str, ParameterKind]:
    """The kinds of one function's parameters, from the JSON schema of its arguments. `mixed` is left out."""
    properties = (parameters or {}).get("properties")
    if not isinstance(properties, dict):
        return {}
    kinds = {name: kind_of(types_of(schema, parameters)) for name, schema in properties.items()}
    return {name: kind for name, kind in kinds.items() if kind != "mixed"}


def kind_of(types: frozenset[str]) -> ParameterKind:
    """The kind of a parameter that may have these JSON types; none: the schema does not say."""
    if not types:
        return "mixed"
    return "|".join(["text", *sorted(types - {"string"})]) if "string" in types else "json"


def types_of(schema: Any, root: Any) -> frozenset[str]:
    """The JSON types that a schema allows, empty if it does not say. References are looked up in `root`."""
    return _types(schema, root, {}, MAX_DEPTH)


def _types(schema: Any, root: Any, known: dict[str, frozenset[str]], depth: int) -> frozenset[str]:
    """`known`: the types behind each reference that was met."""
    if not isinstance(schema, Mapping) or not depth:
        return frozenset()
    said = schema.get("type")
    if isinstance(said, str | list):
        return frozenset({said} if isinstance(said, str) else (name for name in said if isinstance(name, str)))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return frozenset(map(type_of, values))
    if isinstance(ref := schema.get("$ref"), str):
        if ref not in known:
            known[ref] = frozenset()  # for a reference to itself
            known[ref] = _types(referred(root, ref), root, known, depth - 1)
        return known[ref]
    ways = next((ways for name in ("anyOf", "oneOf") if isinstance(ways := schema.get(name), list)), None)
    if ways is not None:
        found = [_types(way, root, known, depth - 1) for way in ways]
        return frozenset().union(*found) if all(found) else frozenset()
    parts = schema.get("allOf")
    found = [_types(part, root, known, depth - 1) for part in parts] if isinstance(parts, list) else []
    return frozenset.intersection(*said_types) if (said_types := [types for types in found if types]) else frozenset()


def referred(root: Any, ref: str) -> Any:
    """What a reference within a schema (`#/$defs/x`) leads to; None if it leads nowhere."""
    found = root if ref.startswith("#") else None
    for step in ref[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def type_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer."""
    if value is None:
        return "null"
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return types.get(type(value), "object")
