"""Keywords of a schema that say nothing, or that other keywords say as well, in the form that a grammar can enforce."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from common.errors import InvalidRequest
from common.grammar.patterns import enforceable
from common.json_bytes import json_bytes

Schema = dict[str, Any]
ENFORCED_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
# Formats that tell a form or a reader how to treat a text, and nothing of the text.
ANNOTATING_FORMATS = frozenset({"password", "binary", "path", "file-path", "directory-path", "textarea", "multi-line"})
IDLE_VALUES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "uniqueItems": (False,),
        "nullable": (False,),
        "not": (False,),
        "minContains": (0,),
        "dependentRequired": ({},),
        "dependentSchemas": ({},),
        "unevaluatedProperties": (True, {}),
        "unevaluatedItems": (True, {}),
        "propertyNames": (True, {}, {"type": "string"}),
        "patternProperties": ({},),
    }
)
LABELS = ("title", "description")
NOTHING: Mapping[str, Any] = MappingProxyType({"anyOf": [False]})


def settled(node: Schema, place: str, *, strict: bool) -> Schema:
    """The node without what says nothing. Not strict: without patterns that cannot be enforced, either.

    Raises InvalidRequest for such a pattern in a strict schema. `place`: of the node, for the refusal.
    """
    if node.get("not") in ({}, True):
        return dict(NOTHING)  # zod's z.never()
    kept = {key: value for key, value in node.items() if value not in IDLE_VALUES.get(key, ())}
    kept = _with_named_properties(_with_format(_with_constants(kept)))
    return _with_pattern(kept, place, strict=strict)


def _with_constants(node: Schema) -> Schema:
    """`oneOf` with different constants as their enum."""
    ways = node.get("oneOf")
    if not isinstance(ways, list) or node.keys() & {"enum", "const"}:
        return node
    said = [
        (way["const"], way.keys() <= {"const", "type", *LABELS})
        for way in ways
        if isinstance(way, dict) and "const" in way
    ]
    values = [value for value, is_alone in said if is_alone]
    if not values or len(values) < len(ways) or len({json_bytes(value) for value in values}) < len(values):
        return node
    return {key: value for key, value in node.items() if key != "oneOf"} | {"enum": values}


def _with_format(node: Schema) -> Schema:
    """An unknown format beside a pattern is left to the pattern: zod writes both for cuid2, base64 and others."""
    name = node.get("format")
    parts = node.get("allOf")  # zod's, for several patterns
    is_idle = name in ANNOTATING_FORMATS or (
        name not in ENFORCED_FORMATS
        and any(
            isinstance(part, dict) and "pattern" in part for part in (node, *(parts if isinstance(parts, list) else ()))
        )
    )
    return {key: value for key, value in node.items() if key != "format"} if "format" in node and is_idle else node


def _with_pattern(node: Schema, place: str, *, strict: bool) -> Schema:
    named, pattern = node.get("patternProperties"), node.get("pattern")
    if not strict and isinstance(named, dict) and any(enforceable(name) is None for name in named):
        node = {key: value for key, value in node.items() if key not in ("patternProperties", "additionalProperties")}
    if not isinstance(pattern, str):
        return node
    parts = enforceable(pattern)
    if parts is None and strict and node.get("format") not in ENFORCED_FORMATS:  # a known format says the same
        raise InvalidRequest(
            f"'{place}.pattern' is {pattern[:80]!r}, with a look-around, word boundary or back reference that cannot "
            "be enforced. Write it without, or leave out strict.",
            param=f"{place}.pattern",
        )
    others = {key: value for key, value in node.items() if key != "pattern"}
    if parts is None:
        return others
    own = [{"pattern": part} for part in parts[1:]]
    joined = [*node.get("allOf", []), *own] if isinstance(node.get("allOf", []), list) else node["allOf"]
    return others | {"pattern": parts[0]} | ({"allOf": joined} if own else {})


def _with_named_properties(node: Schema) -> Schema:
    """`propertyNames` with a list of names or a pattern, as properties of these names (zod's z.record())."""
    names = node.get("propertyNames")
    if not isinstance(names, dict) or node.keys() & {"properties", "patternProperties"}:
        return node
    others = {key: value for key, value in node.items() if key != "propertyNames"}
    value = node.get("additionalProperties", True)
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    if isinstance(listed, list) and names.keys() <= {"type", "enum", "const"}:
        properties = {name: value for name in listed if isinstance(name, str)}
        return others | {"properties": properties, "additionalProperties": False}
    if isinstance(names.get("pattern"), str) and names.keys() <= {"type", "pattern"}:
        return others | {"patternProperties": {names["pattern"]: value}, "additionalProperties": False}
    return node
