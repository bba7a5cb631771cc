"""A parameter's schema taken apart by JSON type, without references and alternatives at its top."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from api.reading.dialects.call_grammar import PARAM, templated
from api.reading.parameters import type_of
from common.errors import InvalidRequest
from common.grammar.json_schema import INTEGER_RANGE, Schema, rebased_schema, refers
from common.grammar.references import referred

TYPES = ("string", "null", "boolean", "integer", "number", "array", "object")
# The rules that concern values of one type alone.
RULES = MappingProxyType(
    {
        "string": frozenset({"pattern", "format", "minLength", "maxLength"}),
        "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
        "array": frozenset(
            {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"}
        ),
        "object": frozenset({"properties", "required", "additionalProperties", "patternProperties", "propertyNames"})
        | {"minProperties", "maxProperties", "dependentRequired", "dependentSchemas"},
    }
)
SIBLINGS = frozenset({"$defs", "definitions"})  # they hold schemas, and rule nothing
MAX_LEAVES = 256


@dataclass(frozen=True, slots=True)
class Leaf:
    """One type that a value may have. `rules`: its schema without `type`; empty if any value of the type fits."""

    type: str
    rules: Schema

    @property
    def schema(self) -> Schema:
        return {**self.rules, "type": self.type}


def leaves_of(root: Schema, name: str) -> list[Leaf]:
    """The leaves of a property of `root`. Raises InvalidRequest if its rules cannot be told apart."""
    leaves: list[Leaf] = []
    for leaf in _leaves(root["properties"][name], root, set()):
        leaves.append(leaf)
        if len(leaves) > MAX_LEAVES:
            raise InvalidRequest(f"The parameter {name!r} has too many alternatives.", param=PARAM)
    return leaves


def json_of(leaves: list[Leaf], root: Schema) -> Schema:
    """A schema of its own that allows what the leaves allow, for values that are written as JSON."""
    schema: Schema = leaves[0].schema if len(leaves) == 1 else {"anyOf": [leaf.schema for leaf in leaves]}
    if refers(schema):
        schema = rebased_schema(schema, "/$defs/whole") | {"$defs": {"whole": rebased_schema(root, "/$defs/whole")}}
    return templated(schema)


def _leaves(schema: object, root: Schema, seen: set[str]) -> Iterator[Leaf]:
    if not isinstance(schema, dict):
        yield from (Leaf(name, {}) for name in TYPES)
        return
    rules = {key: value for key, value in schema.items() if key not in SIBLINGS}
    ref = rules.pop("$ref", None)
    if isinstance(ref, str):
        if ref not in seen:  # else its leaves are there already
            seen.add(ref)
            yield from _leaves(_together([referred(root, ref), rules]) if rules else referred(root, ref), root, seen)
        return
    for key in ("anyOf", "oneOf"):
        if isinstance(ways := rules.get(key), list):
            others = {name: value for name, value in rules.items() if name != key}
            for way in ways:
                yield from _leaves(_together([others, way]) if others else way, root, seen)
            return
    if isinstance(parts := rules.pop("allOf", None), list):
        yield from _leaves(_together([rules, *parts]), root, seen)
        return
    said = rules.pop("type", None)
    types = [said] if isinstance(said, str) else said if isinstance(said, list) else None
    values = rules.get("enum", [rules["const"]] if "const" in rules else None)
    if isinstance(values, list):
        rules = {key: value for key, value in rules.items() if key not in ("enum", "const")}
        for name in dict.fromkeys(map(type_of, values)):
            if types is None or name in types or (name == "integer" and "number" in types):
                yield _leaf(name, {**rules, "enum": [value for value in values if type_of(value) == name]})
        return
    for name in TYPES if types is None else types:
        yield _leaf(name, rules)


def _leaf(name: str, rules: Schema) -> Leaf:
    own = RULES.get("number" if name == "integer" else name, frozenset())
    foreign = frozenset().union(*RULES.values()) - own
    kept = {key: value for key, value in rules.items() if key not in foreign}
    return Leaf(name, {} if name == "integer" and kept == INTEGER_RANGE else kept)


def _together(schemas: list[object]) -> Schema:
    """One schema with the rules of all. Raises InvalidRequest if two of them rule the same."""
    result: Schema = {}
    for schema in schemas:
        rules = schema if isinstance(schema, dict) else {}
        if clash := [key for key in rules if key in result and result[key] != rules[key]]:
            raise InvalidRequest(f"This model's calls cannot be made to follow two rules {clash[0]!r}.", param=PARAM)
        result |= rules
    return result
