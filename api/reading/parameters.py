"""What a function's schema says of its parameters, for dialects that write strings without quotes.

A parameter's kind is `text` (strings only), `json` (no strings), `mixed` (the schema does not say) or `text|` with the
other JSON types that it may have besides a string, as in `text|null`.
Nested kinds name all types (`array|null`). They are listed by path: `a>b` is the member b of the object a, `a>*` each
member that its schema does not name, and `a>item` each item of the list a.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from common.grammar.references import referred

ParameterKind = str
Kinds = Mapping[str, Mapping[str, ParameterKind]]  # {function: {parameter: kind}}; what is not listed is `mixed`
NO_KINDS: Kinds = MappingProxyType({})
MAX_DEPTH = 8  # of schemas inside anyOf and the like, of references to references, and of nested kinds
MAX_NESTED = 256  # kinds of one function
STEP, OTHERS, ITEM = ">", "*", "item"  # in the path of a nested kind


def kinds_of(parameters: Mapping[str, Any] | None) -> dict[str, ParameterKind]:
    """The kinds of one function's parameters, from the JSON schema of its arguments. `mixed` is left out."""
    properties = (parameters or {}).get("properties")
    if not isinstance(properties, dict):
        return {}
    kinds = {name: kind_of(types_of(schema, parameters)) for name, schema in properties.items()}
    return {name: kind for name, kind in kinds.items() if kind != "mixed"}


def nested_kinds_of(parameters: Mapping[str, Any] | None) -> dict[str, ParameterKind]:
    """The kinds of one function's parameters and of what is inside them, down to the last level that fits as a whole.

    What has several schemas (by anyOf, or as a list and an object) has the types of all of them.
    """
    level: dict[str, list[Any]] = {}
    given = (parameters or {}).get("properties")
    for name, schema in given.items() if isinstance(given, dict) else ():
        level[name] = [schema]
    kinds: dict[str, ParameterKind] = {}
    for _ in range(MAX_DEPTH):
        kinds |= {path: _nested_kind([types_of(schema, parameters) for schema in level[path]]) for path in level}
        below: dict[str, list[Any]] = {}
        for path, schemas in level.items():
            seen: set[int] = set()
            for step, inner in chain.from_iterable(_inside(one, parameters, seen, MAX_DEPTH) for one in schemas):
                known = below.setdefault(f"{path}{STEP}{step}", [])
                if not any(inner is other for other in known):
                    known.append(inner)
            if len(kinds) + len(below) > MAX_NESTED:
                return kinds
        level = below
    return kinds


def _nested_kind(types: list[frozenset[str]]) -> ParameterKind:
    named = frozenset().union(*types) if all(types) else frozenset()
    return "|".join(["text"] * ("string" in named) + sorted(named - {"string"})) or "mixed"


def _inside(schema: Any, root: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """The schemas of members and items, each with its step of a path. `seen`: the ids of schemas that were met."""
    if not isinstance(schema, Mapping) or id(schema) in seen or not depth:
        return
    seen.add(id(schema))
    if isinstance(ref := schema.get("$ref"), str):
        yield from _inside(referred(root, ref), root, seen, depth - 1)
    for key in ("anyOf", "oneOf", "allOf"):
        for way in ways if isinstance(ways := schema.get(key), list) else ():
            yield from _inside(way, root, seen, depth - 1)
    if isinstance(properties := schema.get("properties"), dict):
        yield from properties.items()
    if isinstance(others := schema.get("additionalProperties"), dict):
        yield OTHERS, others
    items = schema.get("items")
    first = schema.get("prefixItems")
    for item in (*(first if isinstance(first, list) else ()), *((items,) if isinstance(items, dict) else ())):
        yield ITEM, item


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


def type_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer."""
    if value is None:
        return "null"
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return types.get(type(value), "object")
