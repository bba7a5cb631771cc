"""JSON schemas as we accept them: bounded in depth, self-contained, without keywords that enforce nothing."""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from common.errors import InvalidRequest
from common.grammar.endings import refuse_endless
from common.grammar.settled import settled
from common.grammar.subschemas import children, escaped
from common.json_bounds import is_deeper

Schema = dict[str, Any]

MAX_SCHEMA_DEPTH = 32
MAX_REPEATS = 100_000  # `{m,n}` in a pattern, nested ones multiplied; also minItems, minLength, minProperties
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "$comment", "$schema", "$id", "deprecated"}
    | {"readOnly", "writeOnly", "x-guidance"}
)
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"})
COMBINED = frozenset({"pattern", "patternProperties", "format", "multipleOf", "allOf", "oneOf", "not"})
MAX_MULTIPLE = 1_000  # the automaton has one state per remainder
LARGEST_INTEGER = 2**63 - 1024  # the largest 64-bit integer that a float can represent
# The default bounds of integers: without bounds, small models write digits until they reach max_tokens.
INTEGER_RANGE: Mapping[str, int] = MappingProxyType({"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER})
LOOSE = frozenset(
    {"type", "properties", "required", "items", "prefixItems", "enum", "const", "anyOf", "$ref", "$defs"}
    | {"definitions", "additionalProperties", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"}
)
OPENERS = frozenset({"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if"})
TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
# Tests of values in a schema that was not checked: implausible values are dropped.
PLAUSIBLE: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "type": lambda value: value in TYPES if isinstance(value, str) else _are_strings(value, TYPES),
        "properties": lambda value: isinstance(value, dict),
        "required": lambda value: _are_strings(value),
        "items": lambda value: isinstance(value, dict | bool),
        "enum": lambda value: isinstance(value, list) and bool(value),
        "anyOf": lambda value: isinstance(value, list) and bool(value),
        "$ref": lambda value: value == "#" or (isinstance(value, str) and value.startswith("#/")),
        "additionalProperties": lambda value: isinstance(value, dict | bool),
        "minimum": lambda value: _is_number(value),
        "maximum": lambda value: _is_number(value),
        **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), lambda value: _is_count(value)),
    }
)
PAIRS = (("minimum", "maximum"), ("minItems", "maxItems"), ("minLength", "maxLength"))
REPEAT = re.compile(r"\{(\d{1,12})(?:,(\d{0,12}))?\}")


def checked_schema(schema: Any, param: str, *, strict: bool = True) -> Schema:
    """The schema without annotations and what says nothing; not strict: without patterns that cannot be enforced.

    Raises InvalidRequest: too deep, a remote `$ref`, a repeat beyond bounds, a value that never ends.
    """
    if not isinstance(schema, dict):
        raise InvalidRequest("The schema must be a JSON object.", param=param)
    _refuse_deep_values(schema, param)

    def check(node: Schema, place: str) -> Schema:
        node = {key: value for key, value in node.items() if value is not None or key == "const"}  # null: not there
        _check_ref(node, place)
        _check_repeats(node, place)
        kept = settled({key: value for key, value in node.items() if key not in ANNOTATIONS}, place, strict=strict)
        return {**kept, **INTEGER_RANGE} if kept.get("type") == "integer" and not kept.keys() & BOUNDS else kept

    checked = _rewritten(schema, check, param)
    refuse_endless(checked, param)
    return checked


def relaxed_schema(schema: Any, param: str) -> Schema:
    """The part of a non-strict function's schema that can be enforced: its shape without the finer rules."""
    try:
        checked = checked_schema(schema, param, strict=False)
    except InvalidRequest:
        return {"type": "object"}
    return _rewritten(checked, lambda node, _: _relaxed_node(node))


def rebased_schema(schema: Schema, pointer: str) -> Schema:
    """The schema with its local references (`#/$defs/x`) adjusted to its new place under `pointer`."""

    def rebase(node: Schema, _: str) -> Schema:
        ref = node.get("$ref")
        return {**node, "$ref": f"#{pointer}{ref[1:]}"} if isinstance(ref, str) else node

    return _rewritten(schema, rebase)


def property_schema(schema: Schema, name: str) -> Schema:
    """The schema of one property alone, with the whole schema in `$defs` if the property refers to it."""
    value = schema["properties"][name]
    if not isinstance(value, dict):
        return {}
    if not refers(value):
        return value
    whole = rebased_schema(schema, "/$defs/whole")
    return {"$ref": f"#/$defs/whole/properties/{escaped(name)}", "$defs": {"whole": whole}}


def refers(value: Any) -> bool:
    """True if the schema contains references."""
    return any("$ref" in node for node in _nodes(value))


def is_costly(schema: Schema) -> bool:
    """True if the schema may need combined automata (patterns, formats, multiples), which can take any time."""
    return any(node.keys() & COMBINED for node in _nodes(schema))


def repeats(pattern: str) -> int:
    """The largest number of repeats of a pattern's counted groups, nested counts multiplied."""
    heights = [1]  # of each open group: the largest product seen in it
    last = 1  # the product of the item just read
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "{" and (count := REPEAT.match(pattern, position)):
            last *= max(int(count[1]), int(count[2] or 1), 1)
            heights[-1] = max(heights[-1], last)
            position = count.end()
            continue
        if char == "(":
            heights.append(1)
        elif char == ")" and len(heights) > 1:
            last = heights.pop()
            heights[-1] = max(heights[-1], last)
        elif char not in "*+?":
            last = 1
        position += 2 if char == "\\" else 1
    return max(heights)


def _rewritten(node: Schema, rewrite: Callable[[Schema, str], Schema], place: str = "") -> Schema:
    """The schema with `rewrite` applied to every subschema and its place."""
    result = {
        key: value.copy() if isinstance(value, dict | list) else value for key, value in rewrite(node, place).items()
    }
    for child in list(children(result)):
        if isinstance(child.value, dict):
            holder: Any = result if child.key is None else result[child.keyword]
            key = child.keyword if child.key is None else child.key
            holder[key] = _rewritten(child.value, rewrite, place + child.place)
    return result


def _nodes(node: Any) -> Iterator[Schema]:
    if isinstance(node, dict):
        yield node
        for child in children(node):
            yield from _nodes(child.value)


def _refuse_deep_values(schema: Schema, param: str) -> None:
    """Of plain values, too: a deep one would break a recursive function."""
    if is_deeper(schema, 2 * MAX_SCHEMA_DEPTH):  # a property adds two levels of JSON: `properties` and its name
        raise InvalidRequest(f"The schema is nested more than {MAX_SCHEMA_DEPTH} levels deep.", param=param)


def _check_ref(node: Schema, place: str) -> None:
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        ref = node.get(keyword, "#")
        if not (isinstance(ref, str) and ref.startswith("#")):
            raise _at(f"{place}.{keyword}", f"is {str(ref)[:80]!r}; only references within the schema ('#/...') work.")


def _check_repeats(node: Schema, place: str) -> None:
    for keyword in ("minItems", "minLength", "minProperties"):
        count = node.get(keyword, 0)
        if isinstance(count, int | float) and count > MAX_REPEATS:
            raise _at(f"{place}.{keyword}", f"must be at most {MAX_REPEATS}.")
    multiple = node.get("multipleOf", 1)
    if isinstance(multiple, int | float) and multiple > MAX_MULTIPLE:
        raise _at(f"{place}.multipleOf", f"must be at most {MAX_MULTIPLE}.")
    named = node.get("patternProperties")
    patterns = [
        ("pattern", node.get("pattern")),
        *(("patternProperties", name) for name in (named if isinstance(named, dict) else ())),
    ]
    for keyword, pattern in patterns:
        if isinstance(pattern, str) and repeats(pattern) > MAX_REPEATS:
            raise _at(f"{place}.{keyword}", f"repeats more than {MAX_REPEATS} times.")


def _at(place: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' {fault}", param=place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_strings(value: Any, known: Container[str] | None = None) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and (known is None or v in known) for v in value)


def _relaxed_node(node: Schema) -> Schema:
    kept = {key: value for key, value in node.items() if key in LOOSE}
    if "oneOf" in node and "anyOf" not in kept:
        kept["anyOf"] = node["oneOf"]
    parts = node.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
        kept = {**_relaxed_node(parts[0]), **kept}
    for key, makes_sense in PLAUSIBLE.items():
        if key in kept and not makes_sense(kept[key]):
            del kept[key]
    for low, high in PAIRS:
        if low in kept and high in kept and kept[low] > kept[high]:
            del kept[low], kept[high]
    required = kept.get("required", [])
    if "properties" in kept and not node.keys() & OPENERS and kept["properties"].keys() >= set(required):
        kept["additionalProperties"] = False  # unnamed arguments are never meant, and a small model would invent some
    return kept
