"""Lark for values whose lists and objects are elements. A value's rule ends with the mark after it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.reading.dialects.call_grammar import PARAM
from api.reading.dialects.tags.elements import CONTAINERS, MAX_NAME, ElementValue, as_elements, path_to, types_in
from api.reading.dialects.tags.leaves import SIBLINGS, Leaf, leaves_of
from api.reading.dialects.tags.raw_values import BLANK, RawValues, Way
from api.reading.dialects.tags.tag_form import TagForm
from api.reading.parameters import ITEM, OTHERS, STEP, ParameterKind, nested_kinds_of
from common.errors import InvalidRequest
from common.grammar.answer import MarkedText
from common.grammar.json_schema import Schema

ANY_NAME = "/[A-Za-z0-9_.-]{1,64}/"
ANY_DEPTH = 3  # of values that no schema describes
MAX_VALUES = 1_000  # of one function, nested ones too
OBJECT = frozenset({"properties", "required", "additionalProperties"})
ARRAY = frozenset({"items", "prefixItems", "minItems", "maxItems"})


@dataclass(frozen=True, slots=True)
class Function:
    root: Schema
    kinds: Mapping[str, ParameterKind]  # as the answer is read by
    is_strict: bool
    written: dict[tuple[str, int], str | None] = field(default_factory=dict)  # rules, by path and id of the schema


class ElementRules:
    """Adds the rules of elements to the `values` of a grammar."""

    def __init__(self, form: TagForm, values: RawValues, marked: MarkedText) -> None:
        self._form = form
        self._values = values
        self._marked = marked
        self._mark = marked.literal(form.elements)
        self._known: dict[str, str] = {}  # rules, by what they allow

    def of(self, root: Schema, *, is_strict: bool) -> Callable[[str], list[Way]]:
        """How each property of `root` may be written. The result raises InvalidRequest for what cannot be enforced."""
        function = Function(root, nested_kinds_of(root), is_strict)

        def ways(name: str) -> list[Way]:
            rule = self._value(function, root["properties"][name], name) if len(name) <= MAX_NAME else None
            if rule is None and is_strict:
                raise InvalidRequest(
                    f"No value of the parameter {name!r} can be written in this model's calls.", param=PARAM
                )
            return [Way("", rule or self.any_value())]

        return ways

    def any_value(self, depth: int = ANY_DEPTH) -> str:
        if not depth:
            return self._values.free()
        member = f'"<" {ANY_NAME} ">" {self.any_value(depth - 1)} "</" {ANY_NAME} ">" {self._mark}'
        return self._rule(f"{self._values.free(BLANK)} | {self._mark} ({member})*")

    def _value(self, function: Function, schema: Any, path: str) -> str | None:
        """None if no value can be written: too deep, or none is read back as itself."""
        if schema is True or (isinstance(schema, dict) and not schema.keys() - SIBLINGS):
            return self.any_value()
        if schema is False or path not in function.kinds:
            return None
        key = path, id(schema)
        if key not in function.written:
            function.written[key] = None  # if there are too many
            if len(function.written) <= MAX_VALUES:
                function.written[key] = self._ruled(function, schema, path)
        return function.written[key]

    def _ruled(self, function: Function, schema: Any, path: str) -> str | None:
        types = types_in(function.kinds[path])
        leaves = leaves_of(_with(function.root, path, schema), path)
        trees = [leaf for leaf in leaves if leaf.type in CONTAINERS]
        is_sole = sum(leaf.type == "object" for leaf in trees) == 1
        ways = [self._tree(function, leaf, path, types, is_sole=is_sole) for leaf in trees]
        written = [way for way in ways if way]
        if scalars := [leaf for leaf in leaves if leaf.type not in CONTAINERS]:
            foreign = types - CONTAINERS - {"text"} - {leaf.type for leaf in scalars}
            own = {"anyOf": [leaf.schema for leaf in scalars]} if len(scalars) > 1 else scalars[0].schema
            found = self._values.ways(_with(function.root, path, own), path, foreign | ({BLANK} if written else set()))
            written += [way.value for way in found]
        return self._rule(" | ".join(written)) if written else None

    def _tree(self, function: Function, leaf: Leaf, path: str, types: frozenset[str], *, is_sole: bool) -> str | None:
        if "enum" in leaf.rules:
            return self._constants(function, leaf.rules["enum"], path)
        known = OBJECT if leaf.type == "object" else ARRAY
        if function.is_strict and (unknown := sorted(leaf.rules.keys() - known)):
            raise InvalidRequest(
                f"This model's calls cannot be made to follow {unknown[0]!r} for an {leaf.type}.", param=PARAM
            )
        if leaf.type == "array":
            return self._array(function, leaf.rules, path, can_be_empty="text" not in types)
        return self._object(function, leaf.rules, path, types, is_sole=is_sole)

    def _constants(self, function: Function, values: list[Any], path: str) -> str | None:
        """The values that are read back as themselves."""
        written = []
        for value in values:
            text = as_elements(value, self._form.elements)
            reader = ElementValue(self._form.elements, function.kinds, path)
            reader.take(text)
            found = reader.end()
            if not reader.is_spoilt and json.loads(found) == value and reader.may_end:
                written.append(self._marked.literal(text + self._form.elements))
        return " | ".join(written) or None

    def _array(self, function: Function, rules: Schema, path: str, *, can_be_empty: bool) -> str | None:
        inside = path_to(path, ITEM, function.kinds)
        least, most = int(rules.get("minItems", 0)), rules.get("maxItems")
        first = [self._value(function, schema, inside) for schema in rules.get("prefixItems", [])[:most]]
        if any(item is None for item in first):
            return None
        written = [self._element(ITEM, item) for item in first if item]
        least = max(least - len(written), 0 if written or can_be_empty else 1)
        left = None if most is None else int(most) - len(written)
        item = None if left == 0 else self._value(function, rules.get("items", {}), inside)
        if item and (left is None or left >= least):
            written.append(f"({self._element(ITEM, item)}){{{least},{'' if left is None else left}}}")
        elif least:
            return None
        return f"{self._mark} {' '.join(written)}"

    def _object(
        self, function: Function, rules: Schema, path: str, types: frozenset[str], *, is_sole: bool
    ) -> str | None:
        others, required = rules.get("additionalProperties", True), rules.get("required", [])
        properties = dict(rules.get("properties", {}))
        properties |= {name: others for name in required if name not in properties}
        can_be_empty = not types & {"text", "array"}
        if not properties and others is not False:
            return self._map(function, others, path, types, is_sole=is_sole)
        members = []
        for name, schema in properties.items():
            can_be_named = 0 < len(name) <= MAX_NAME and not set(name) & set(self._form.writing.unnameable)
            if name == ITEM and "array" in types:
                can_be_named = False
            rule = self._value(function, schema, path_to(path, name, function.kinds)) if can_be_named else None
            if rule:
                members.append((self._element(name, rule), name in required))
            elif name in required:
                return None
        optional = [f"({member})" if is_required else f"({member})?" for member, is_required in members]
        if can_be_empty or any(is_required for _, is_required in members):
            return f"{self._mark} {' '.join(optional)}"
        ways = [" ".join([member, *optional[index + 1 :]]) for index, (member, _) in enumerate(members)]
        return f"{self._mark} ({' | '.join(ways)})" if ways else None

    def _map(self, function: Function, others: Any, path: str, types: frozenset[str], *, is_sole: bool) -> str | None:
        """Members of any name, which must not make the object a list."""
        value = self._value(function, others, f"{path}{STEP}{OTHERS}") if is_sole or others in (True, {}) else None
        if value is None:
            return None
        name = "/([A-Za-hj-z0-9_.-]|i[A-Za-su-z0-9_.-])[A-Za-z0-9_.-]{0,62}/" if "array" in types else ANY_NAME
        repeats = "+" if types & {"text", "array"} else "*"
        return f'{self._mark} ("<" {name} ">" {value} "</" {ANY_NAME} ">" {self._mark}){repeats}'

    def _element(self, name: str, value: str) -> str:
        return self._rule(
            f"{self._marked.literal(f'<{name}>')} {value} {self._marked.literal(f'</{name}>{self._form.elements}')}"
        )

    def _rule(self, written: str) -> str:
        if written not in self._known:
            self._known[written] = f"element_{len(self._known)}"
            self._values.lines.append(f"{self._known[written]}: {written}")
        return self._known[written]


def _with(root: Schema, name: str, schema: Any) -> Schema:
    """The root with one more property."""
    return {**root, "properties": {**root["properties"], name: schema}}
