"""Grammars of tool calls: the rules a request sets, and the parts that several dialects build their grammars from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from common.grammar.answer import TEXT, Grammar, MarkedText, assemble, refuse_large
from common.grammar.json_schema import Schema, checked_schema, rebased_schema, relaxed_schema

PARAM = "tools"
MAX_PARALLEL_CALLS = 16  # of an answer that must call: a small model would go on until it reaches max_tokens
# JSON with the separators that chat templates print, because the models were trained on these.
TEMPLATE_JSON: Mapping[str, Any] = MappingProxyType(
    {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
)


@dataclass(frozen=True, slots=True)
class OfferedFunction:
    """A function that the model may call. Only a strict function's schema is enforced in full."""

    name: str
    parameters: Mapping[str, Any] | None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class CallRules:
    """The calls that an answer may hold. `schemas`: each function's name and its arguments' schema, as enforced."""

    schemas: tuple[tuple[str, Schema], ...]
    strict_names: frozenset[str]
    must_call: bool
    parallel: bool
    marked: MarkedText

    @property
    def most_calls(self) -> int:
        return MAX_PARALLEL_CALLS if self.parallel else 1


@dataclass(frozen=True, slots=True)
class MarkedCalls:
    """A block of calls: `opening`, then the rule `rest`, which `lines` and `schemas` define."""

    opening: str
    lines: tuple[str, ...]
    schemas: Mapping[str, Schema]
    lead: str = ""  # before the first opening, when the answer has no other text
    between: str | None = None  # before each further block; None: one block holds all calls
    also: tuple[tuple[str, str], ...] = ()  # another opening, and the rule of what follows it


def call_rules(
    functions: Sequence[OfferedFunction],
    schema_copies: Callable[[Schema], int],
    *,
    must_call: bool,
    parallel: bool,
    marked: MarkedText,
) -> CallRules:
    """Raises InvalidRequest for schemas that are faulty, or so large that the grammar would exceed its limit."""
    schemas = tuple((function.name, _arguments_schema(function, must_call)) for function in functions)
    refuse_large(sum(_num_bytes(schema) * schema_copies(schema) for _, schema in schemas), PARAM)
    strict_names = frozenset(function.name for function in functions if function.strict)
    return CallRules(schemas, strict_names, must_call, parallel, marked)


def marked_grammar(rules: CallRules, calls: MarkedCalls) -> Grammar:
    """The grammar of a dialect whose calls begin with a marker."""
    start = _required(rules, calls) if rules.must_call else _optional(rules, calls)
    return assemble([*start, *calls.lines], calls.schemas, PARAM)


def call_schema(schemas: Sequence[tuple[str, Schema]], arguments_key: str, prefix: str = "") -> Schema:
    """One call as JSON, `{"name": …, "arguments": …}`, with the arguments that its name requires.

    `prefix`: the JSON pointer of the place where this schema is used.
    """
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    arguments_key: rebased_schema(schema, f"{prefix}/anyOf/{index}/properties/{arguments_key}"),
                },
                "required": ["name", arguments_key],
                "additionalProperties": False,
            }
            for index, (name, schema) in enumerate(schemas)
        ]
    }


def templated(schema: Schema) -> Schema:
    """The schema, written with the separators of chat templates."""
    return {**schema, "x-guidance": dict(TEMPLATE_JSON)}


def _required(rules: CallRules, calls: MarkedCalls) -> list[str]:
    first = f"{rules.marked.literal(calls.lead + calls.opening)} rest"
    if not rules.parallel or calls.between is None:
        return [f"start: {first}"]
    further = f"{rules.marked.literal(calls.between + calls.opening)} rest"
    return [f"start: {first} ({further}){{0,{MAX_PARALLEL_CALLS - 1}}}"]


def _optional(rules: CallRules, calls: MarkedCalls) -> list[str]:
    start = "start: free | call" if not rules.parallel or calls.between is None else "start: call* free"
    lines = [start, f"free: {TEXT}", *rules.marked.until("opened", calls.opening)]
    ways = ["opened rest"]
    for index, (opening, rule) in enumerate(calls.also):
        lines += rules.marked.until(f"opened_{index}", opening)
        ways.append(f"opened_{index} {rule}")
    return [*lines, f"call: {' | '.join(ways)}"]


def _num_bytes(schema: Schema) -> int:
    """The schema's size as JSON; 0 for one that cannot be written as JSON, which is refused later."""
    try:
        return len(orjson.dumps(schema))
    except TypeError:
        return 0


def _arguments_schema(function: OfferedFunction, must_call: bool) -> Schema:
    if function.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if function.strict:
        return checked_schema(dict(function.parameters), PARAM)
    return relaxed_schema(dict(function.parameters), PARAM) if must_call else {"type": "object"}
