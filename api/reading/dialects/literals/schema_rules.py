"""Translates JSON schemas to Lark rules for values that are not written as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from api.reading.dialects.call_grammar import PARAM, CallRules
from api.reading.dialects.literals.notation import Notation
from common.errors import InvalidRequest
from common.grammar.json_schema import Schema
from common.grammar.references import referred

DEFINITIONS = frozenset({"$defs", "definitions"})
EVERYWHERE = frozenset({"$defs", "definitions", "type"})
OBJECT = frozenset({"properties", "required", "additionalProperties"})
ARRAY = frozenset({"items", "minItems", "maxItems"})
STRING = frozenset({"minLength", "maxLength"})
NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
OF_TYPE = (("object", OBJECT), ("array", ARRAY), ("string", STRING), ("number", NUMBER))
KNOWN = EVERYWHERE | OBJECT | ARRAY | STRING | NUMBER
ANY = "value"  # the rule of a value of any kind


class SchemaRules:
    """The rules of one grammar. `lines` and `schemas` grow with each function that is translated."""

    def __init__(self, notation: Notation, rules: CallRules) -> None:
        self._notation = notation
        self._marked = rules.marked
        self._strict_names = rules.strict_names
        self._function = ""
        self._root: Schema = {}
        self._refs: dict[str, str] = {}  # of the function's schema: pointer -> rule
        self._waiting: list[str] = []  # pointers whose rules are not written yet
        self._names: dict[str, str] = {}  # expression -> rule
        self._num_rules = 0
        comma, keyed = notation.comma, f"{notation.any_key} {ANY}"
        self.schemas: dict[str, Schema] = {"number": {"type": "number"}}
        words = f"{notation.true} | {notation.false} | {notation.null}"
        self.lines = [
            f'{ANY}: string | @number | {words} | items | "{{" keyed? "}}"',
            f'items: "[" ({ANY} ({comma} {ANY})*)? "]"',
            f"keyed: {keyed} ({comma} {keyed})*",
            *notation.string(self._marked, "string", 0, None),
        ]

    def arguments(self, function: str, schema: Schema) -> str:
        """The rule of one function's arguments, without brackets around them."""
        self._function, self._root, self._refs = function, schema, {}
        top = self._resolved(schema)
        self._check(top.keys() - EVERYWHERE - OBJECT)
        rule = self._rule(self._members(top, is_top=True))
        while self._waiting:
            pointer = self._waiting.pop()
            self._define(self._refs[pointer], self._value(self._resolved({"$ref": pointer})))
        return rule

    def _value(self, schema: Any) -> str:
        """The rule of a value that the schema allows."""
        if not isinstance(schema, dict):
            return ANY if schema is not False else self._otherwise("false", ANY)
        if "$ref" in schema:
            return self._referred(schema)
        if "enum" in schema or "const" in schema:
            return self._rule(" | ".join(self._constant(value) for value in self._constants(schema)))
        if ways := schema.get("anyOf"):
            self._check(schema.keys() - {"anyOf"} - DEFINITIONS)
            return self._rule(" | ".join(self._value(way) for way in ways))
        self._check(schema.keys() - KNOWN)
        return self._rule(" | ".join(self._typed(kind, schema) for kind in _types(schema)) or ANY)

    def _typed(self, kind: str, schema: Schema) -> str:
        if kind == "object":
            return f'"{{" {self._rule(self._members(schema))} "}}"'
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind == "boolean":
            return f"{self._notation.true} | {self._notation.false}"
        if kind == "null":
            return self._notation.null
        number = {"type": kind, **{key: schema[key] for key in sorted(schema.keys() & NUMBER)}}
        name = next((name for name, known in self.schemas.items() if known == number), f"n{len(self.schemas)}")
        self.schemas[name] = number
        return f"@{name}"

    def _string(self, schema: Schema) -> str:
        least, most = _bounds(schema, "Length")
        if not least and most is None:
            return "string"
        name = f"string_{least}_{'any' if most is None else most}"
        if name not in self._names:
            self._names[name] = name
            self.lines += self._notation.string(self._marked, name, least, most)
        return name

    def _array(self, schema: Schema) -> str:
        least, most = _bounds(schema, "Items")
        if most == 0:
            return '"[" "]"'
        item = self._value(schema.get("items", {}))
        least_more, most_more = max(least - 1, 0), "" if most is None else most - 1
        more = "*" if most is None and not least_more else f"{{{least_more},{most_more}}}"
        items = item if most == 1 else f"{item} ({self._notation.comma} {item}){more}"
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _members(self, schema: Schema, *, is_top: bool = False) -> str:
        """The members of an object, in the order of the schema or of the alphabet."""
        notation = self._notation
        write, names = (notation.argument, notation.argument_names) if is_top else (notation.key, notation.key_names)
        others = schema.get("additionalProperties", True)
        required = schema.get("required", [])
        properties = dict(schema.get("properties", {}))
        properties |= {name: others for name in required if name not in properties}
        if not properties:
            any_name = notation.any_argument if is_top else notation.any_key
            member = "" if others is False else f"{any_name} {self._value(others)}"
            return f"({member} ({notation.comma} {member})*)?" if member else '""'
        order = sorted(properties, key=str.lower) if notation.is_sorted else list(properties)
        members = []
        for name in order:
            if properties[name] is False and name not in required:
                continue
            if names.fullmatch(name):
                member = self._rule(f"{write(self._marked, name)} {self._value(properties[name])}")
                members.append((member, name in required))
            else:
                self._check({name})
        return self._in_order(members)

    def _in_order(self, members: Sequence[tuple[str, bool]]) -> str:
        """The members with commas between them, of which those that are not required may be missing."""
        ways: list[str] = []
        rest = '""'  # what may follow the member
        for member, is_required in reversed(members):
            way = member if rest == '""' else f"{member} {rest}"
            ways = [way] if is_required else [way, *ways]
            following = f"({self._notation.comma} {member})" + ("" if is_required else "?")
            rest = self._rule(following if rest == '""' else f"{following} {rest}")
        is_empty = not any(is_required for _, is_required in members)
        return " | ".join([*ways, '""'] if is_empty else ways)

    def _constants(self, schema: Schema) -> list[Any]:
        self._check(schema.keys() - EVERYWHERE - {"enum", "const"})
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        kinds = _types(schema) if "type" in schema else ()
        fitting = [value for value in values if not kinds or _kinds_of(value) & set(kinds)]
        return fitting or self._otherwise("enum", values)

    def _constant(self, value: Any) -> str:
        notation = self._notation
        if isinstance(value, str):
            return notation.constant(self._marked, value)
        if value is None or isinstance(value, bool):
            return f"({notation.null if value is None else notation.true if value else notation.false})"
        joint = f" {notation.comma} "
        if isinstance(value, list):
            return f'"[" {joint.join(map(self._constant, value))} "]"'
        if isinstance(value, dict):
            order = sorted(value, key=str.lower) if notation.is_sorted else list(value)
            members = [f"{notation.key(self._marked, name)} {self._constant(value[name])}" for name in order]
            return f'"{{" {joint.join(members)} "}}"'
        return json.dumps(json.dumps(value))

    def _referred(self, schema: Schema) -> str:
        self._check(schema.keys() - {"$ref"} - DEFINITIONS)
        pointer = schema["$ref"]
        if pointer not in self._refs:
            self._refs[pointer] = self._new_name()
            self._waiting.append(pointer)
        return self._refs[pointer]

    def _resolved(self, schema: Any) -> Any:
        """The schema that a chain of references ends at."""
        seen = set()
        while isinstance(schema, dict) and "$ref" in schema:
            pointer = schema["$ref"]
            if pointer in seen:
                return self._otherwise("$ref", {})
            seen.add(pointer)
            schema = referred(self._root, pointer)
            if schema is None:
                return self._otherwise("$ref", {})
        return schema

    def _rule(self, written: str) -> str:
        """The name of a rule for an expression. A name stands for itself; equal expressions share a rule."""
        if written.isidentifier():
            return written
        if written not in self._names:
            self._names[written] = self._new_name()
            self._define(self._names[written], written)
        return self._names[written]

    def _new_name(self) -> str:
        self._num_rules += 1
        return f"r{self._num_rules}"

    def _define(self, name: str, written: str) -> None:
        self.lines.append(f"{name}: {written}")

    def _check(self, keywords: set[str]) -> None:
        """Refuse what cannot be enforced, where the function is strict."""
        if keywords and self._function in self._strict_names:
            raise InvalidRequest(
                f"This model's calls cannot be made to follow {min(keywords)!r} in a schema "
                f"(function {self._function!r}).",
                param=PARAM,
            )

    def _otherwise(self, keyword: str, instead: Any) -> Any:
        self._check({keyword})
        return instead


def _types(schema: Schema) -> Sequence[str]:
    """The types that a schema allows, from its keywords if it does not name them; none: any."""
    named = schema.get("type")
    if named is not None:
        return [named] if isinstance(named, str) else list(dict.fromkeys(named))
    return [kind for kind, keywords in OF_TYPE if schema.keys() & keywords]


def _bounds(schema: Schema, what: str) -> tuple[int, int | None]:
    most = schema.get(f"max{what}")
    return int(schema.get(f"min{what}", 0)), None if most is None else int(most)


def _kinds_of(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {"string"} if isinstance(value, str) else {"null"} if value is None else {_container(value)}


def _container(value: Any) -> str:
    return "array" if isinstance(value, list) else "object"
