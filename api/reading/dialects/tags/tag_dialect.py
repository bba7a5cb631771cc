"""A dialect of a TagForm, and its grammar: the parameters in the order of the schema, each by its own schema."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from api.reading.dialects.call_grammar import PARAM, CallRules, MarkedCalls, marked_grammar
from api.reading.dialects.dialect import ToolDialect, one_copy
from api.reading.dialects.tags.element_rules import ANY_NAME, ElementRules
from api.reading.dialects.tags.raw_values import RawValues, Way
from api.reading.dialects.tags.tag_block import TagBlock
from api.reading.dialects.tags.tag_form import BREAK, NUMBER, TagForm
from common.errors import InvalidRequest
from common.grammar.answer import Grammar
from common.grammar.json_schema import Schema, refers

PARAMETER_KEYS = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})
ANY = "\0"  # in place of a name: any name
FREE = MappingProxyType({BREAK: '"\\n"?', NUMBER: "/[1-9][0-9]?/", ANY: ANY_NAME})


def tag_dialect(
    name: str,
    form: TagForm,
    detect: Callable[[str, str], bool],
    *,
    bare: bool = False,
    further_marks: tuple[str, ...] = (),
) -> ToolDialect:
    """`bare`: models leave out the block's opening, so that the tag of a call begins a block too."""
    return ToolDialect(
        name,
        openings=(*form.openings, form.call.start) if bare else form.openings,
        detect=detect,
        new_block=lambda calls, before: TagBlock(form, calls, before),
        write_grammar=lambda rules: TagGrammar(form, rules).written(bare=bare),
        reads_kinds=form.type_name is None,
        further_marks=further_marks or form.marks,
        reads_nested_kinds=bool(form.elements),
        schema_copies=one_copy if form.elements else _schema_copies,
    )


class TagGrammar:
    """Writes the grammar of one request."""

    def __init__(self, form: TagForm, rules: CallRules) -> None:
        _refuse_joint_rules(rules)
        self._form = form
        self._writing = form.writing
        self._rules = rules
        self._values = RawValues(replace(form, parameter_end=form.elements or form.parameter_end), rules.marked)
        self._elements = ElementRules(form, self._values, rules.marked) if form.elements else None

    def written(self, *, bare: bool) -> Grammar:
        """`bare`: a call may stand without the block's opening."""
        writing, names = self._writing, [name for name, _ in self._rules.schemas]
        most = self._rules.most_calls if writing.between is None else 1
        lines = [f"rest: call_written{{1,{most}}} {self._spelled(writing.block_end)}"]
        lines.append("call_written: " + " | ".join(f"head_{index} body_{index}" for index in range(len(names))))
        for index, (name, schema) in enumerate(self._rules.schemas):
            lines.append(f"head_{index}: {self._spelled(writing.call.format(name=name))}")
            lines.append(f"body_{index}: {self._parameters(name, schema)} {self._spelled(writing.call_end)}")
        head = self._form.call.start
        also: tuple[tuple[str, str], ...] = ()
        if bare:
            also = ((head, "bare"),)
            heads = [self._spelled(writing.call.partition(head)[2].format(name=name)) for name in names]
            ways = " | ".join(f"{text} body_{index}" for index, text in enumerate(heads))
            lines.append(f"bare: ({ways}) {self._spelled(writing.block_end)}")
        calls = MarkedCalls(
            self._form.opening or head,
            (*lines, *self._values.lines),
            self._values.schemas,
            lead=writing.lead,
            between=writing.between,
            also=also,
        )
        return marked_grammar(self._rules, calls)

    def _parameters(self, function: str, schema: Schema) -> str:
        is_closed = schema.get("additionalProperties") is False
        given, required = schema.get("properties"), schema.get("required", [])
        properties = dict(given) if isinstance(given, dict) else {}
        if not is_closed:
            properties |= {name: {} for name in required if name not in properties}
        if not properties and not is_closed:
            return self._any_parameters()
        ways_of = self._ways_of({**schema, "properties": properties}, is_strict=function in self._rules.strict_names)
        written = []
        for name, value in properties.items():
            if value is False or not name or any(char in name for char in (*self._writing.unnameable, *FREE)):
                self._refuse_required(function, name, required)
                continue
            texts = " | ".join(
                f"{self._opened(name, way.type)} {self._valued(way.value, name)}" for way in ways_of(name)
            )
            written.append(f"({texts})" if name in required else f"({texts})?")
        return " ".join(written)

    def _ways_of(self, root: Schema, *, is_strict: bool) -> Callable[[str], list[Way]]:
        if self._elements is None:
            return partial(self._values.ways, root)
        return self._elements.of(root, is_strict=is_strict)

    def _any_parameters(self) -> str:
        """Values of any text, for a function of which nothing is known."""
        type_name = self._form.type_name("string") if self._form.type_name else ""
        opened = self._opened(ANY, type_name)
        value = self._elements.any_value() if self._elements else self._values.free()
        return f"({opened} {self._valued(value, ANY)})*"

    def _opened(self, name: str, type_name: str) -> str:
        return self._spelled(self._writing.parameter.format(name=name, type=type_name))

    def _valued(self, value: str, name: str) -> str:
        return f"{value} {self._spelled(self._writing.value_end.format(name=name))}"

    def _spelled(self, text: str) -> str:
        """Lark for a text of a Writing."""
        parts = re.split(f"([{BREAK}{NUMBER}{ANY}])", text)
        return " ".join(FREE.get(part) or self._rules.marked.literal(part) for part in parts if part)

    def _refuse_required(self, function: str, name: str, required: Sequence[str]) -> None:
        if name in required and function in self._rules.strict_names:
            raise InvalidRequest(
                f"This model's calls cannot name the parameter {name!r} (function {function!r}).", param=PARAM
            )


def _refuse_joint_rules(rules: CallRules) -> None:
    """Parameters are enforced one by one, each by its own schema; a strict schema's rules across them cannot be."""
    for name, schema in rules.schemas:
        if name in rules.strict_names and (joint := sorted(schema.keys() - PARAMETER_KEYS)):
            raise InvalidRequest(
                f"This model's calls cannot be made to follow {joint[0]!r} at the top of a strict schema "
                f"(function {name!r}).",
                param=PARAM,
            )


def _schema_copies(schema: Schema) -> int:
    """Each parameter that has references is written with the whole schema."""
    properties = schema.get("properties")
    return sum(map(refers, properties.values())) if isinstance(properties, dict) else 1
