"""Grammars that make a model call tools correctly, one per format in which models write calls.

The formats' texts are what the models were trained on (their chat templates write past calls in the same way).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from common.errors import InvalidRequest
from common.grammar.answer import TEXT, Grammar, MarkedText, assemble, refuse_large
from common.grammar.json_schema import Schema, checked_schema, property_schema, rebased_schema, refers, relaxed_schema

ToolCallFormat = Literal["hermes", "llama3_json", "mistral", "mistral_args", "deepseek_v32"]

MAX_PARALLEL_CALLS = 16  # in an answer that must call: a small model would go on until its tokens are spent
TEMPLATE_JSON = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}  # as templates print it
NO_PARAMETERS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
PARAMETER_KEYS = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})
PYTHON_TAG = "<|python_tag|>"
DSML = "｜DSML｜"
PARAM = "tools"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call. Only a strict one's schema is enforced in full."""

    name: str
    parameters: Mapping[str, Any] | None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class CallBlock:
    """What the model writes to call: `opening`, then the rule `rest`, which `lines` and `schemas` define."""

    opening: str
    lines: tuple[str, ...]
    schemas: Mapping[str, Schema]
    lead: str = ""  # before the first opening, when nothing else was said
    between: str | None = None  # before each further block; None: one block holds all calls


def tool_grammar(
    format: ToolCallFormat, functions: Sequence[Function], *, must_call: bool, parallel: bool, marked: MarkedText
) -> Grammar | None:
    """How an answer may call the functions; None where nothing has to be enforced.

    `must_call`: tool_choice required, or a named function (then it is the only one given). Otherwise the answer is free
    text in which a call, once begun, follows the rules.
    """
    if not must_call and parallel and not any(function.strict for function in functions):
        return None
    schemas = [(function.name, _arguments_schema(function, must_call)) for function in functions]
    refuse_large(sum(_least_bytes(schema, format) for _, schema in schemas), PARAM)
    if format == "deepseek_v32":
        _refuse_joint_rules(functions, dict(schemas))
    if format == "llama3_json":
        return _llama3_grammar(schemas, must_call, marked)
    block = _call_block(format, schemas, MAX_PARALLEL_CALLS if parallel else 1, marked)
    start = _required(block, parallel, marked) if must_call else _optional(block, parallel, marked)
    return assemble([*start, *block.lines], block.schemas, PARAM)


def _least_bytes(schema: Schema, format: ToolCallFormat) -> int:
    """How much of a grammar a function's schema takes, known before it is written: once, or with each reference."""
    try:
        num_bytes = len(orjson.dumps(schema))
    except TypeError:  # refused when it is written
        return 0
    properties = schema.get("properties")
    if format == "deepseek_v32" and isinstance(properties, dict):
        return num_bytes * sum(map(refers, properties.values()))
    return num_bytes


def _required(block: CallBlock, parallel: bool, marked: MarkedText) -> list[str]:
    first = f"{marked.literal(block.lead + block.opening)} rest"
    if not parallel or block.between is None:
        return [f"start: {first}"]
    further = f"{marked.literal(block.between + block.opening)} rest"
    return [f"start: {first} ({further}){{0,{MAX_PARALLEL_CALLS - 1}}}"]


def _optional(block: CallBlock, parallel: bool, marked: MarkedText) -> list[str]:
    start = "start: free | call" if not parallel or block.between is None else "start: call* free"
    return [start, f"free: {TEXT}", "call: opened rest", *marked.until("opened", block.opening)]


def _call_block(
    format: ToolCallFormat, schemas: Sequence[tuple[str, Schema]], most_calls: int, marked: MarkedText
) -> CallBlock:
    if format == "hermes":
        rest = f'rest: "\\n" @call {marked.literal(chr(10) + "</tool_call>")}'
        return CallBlock("<tool_call>", (rest,), {"call": _templated(_call_schema(schemas, "arguments"))}, between="\n")
    if format == "mistral":
        calls = _call_schema(schemas, "arguments", prefix="/items")
        array = {"type": "array", "items": calls, "minItems": 1, "maxItems": most_calls}
        return CallBlock("[TOOL_CALLS]", ('rest: " "? @calls',), {"calls": _templated(array)})
    if format == "mistral_args":
        names = {f"args_{index}": _templated(schema) for index, (_, schema) in enumerate(schemas)}
        ways = [f"{marked.literal(name + '[ARGS]')} @args_{index}" for index, (name, _) in enumerate(schemas)]
        return CallBlock("[TOOL_CALLS]", ("rest: " + " | ".join(ways),), names, between="")
    return _dsml_block(schemas, most_calls, marked)


def _llama3_grammar(schemas: Sequence[tuple[str, Schema]], must_call: bool, marked: MarkedText) -> Grammar:
    """One call, without a marker: an answer that begins with a brace is a call."""
    tag = f"({marked.literal(PYTHON_TAG)})? " if PYTHON_TAG in marked.special_tokens else ""
    free = "" if must_call else "TEXT? | "
    lines = [f"start: {free}{tag}@call", "TEXT: /[^{](.|\\n)*/"]
    return assemble(lines, {"call": _templated(_call_schema(schemas, "parameters"))}, PARAM)


def _dsml_block(schemas: Sequence[tuple[str, Schema]], most_calls: int, marked: MarkedText) -> CallBlock:
    lines = [
        f'rest: ("\\n" invoke){{1,{most_calls}}} "\\n" {marked.literal(f"</{DSML}function_calls>")}',
        "invoke: " + " | ".join(f"invoke_{index}" for index in range(len(schemas))),
        *marked.until("raw_value", f"</{DSML}parameter>"),
    ]
    named: dict[str, Schema] = {}
    for index, (name, schema) in enumerate(schemas):
        parameters = _dsml_parameters(index, schema, named, marked)
        opened = marked.literal(f'<{DSML}invoke name="{name}">\n')
        lines.append(f"invoke_{index}: {opened} {parameters} {marked.literal(f'</{DSML}invoke>')}")
    return CallBlock(f"<{DSML}function_calls>", tuple(lines), named, lead="\n\n")


def _dsml_parameters(index: int, schema: Schema, named: dict[str, Schema], marked: MarkedText) -> str:
    """The parameters in their order, one line each. Plain strings stand as they are, everything else as JSON."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return '"\\n"?' if schema.get("additionalProperties") is False else _any_parameters(index, named, marked)
    parameters = []
    for place, (name, value) in enumerate(properties.items()):
        if isinstance(value, dict) and value.keys() == {"type"} and value["type"] == "string":
            written = f"{marked.literal(_parameter_tag(name, 'true'))} raw_value"
        else:
            rule = f"args_{index}_{place}"
            named[rule] = _templated(property_schema(schema, name))
            closing = marked.literal(f"</{DSML}parameter>")
            written = f"{marked.literal(_parameter_tag(name, 'false'))} @{rule} {closing}"
        is_required = name in schema.get("required", ())
        parameters.append(f'{written} "\\n"' if is_required else f'({written} "\\n")?')
    return " ".join([*parameters, '"\\n"?'])


def _refuse_joint_rules(functions: Sequence[Function], schemas: Mapping[str, Schema]) -> None:
    """Parameters are written one by one, each by its own schema; rules across them cannot be enforced."""
    for function in functions:
        if function.strict and (joint := sorted(schemas[function.name].keys() - PARAMETER_KEYS)):
            raise InvalidRequest(
                f"This model's calls cannot be made to follow {joint[0]!r} at the top of a strict schema "
                f"(function {function.name!r}).",
                param=PARAM,
            )


def _any_parameters(index: int, named: dict[str, Schema], marked: MarkedText) -> str:
    named[f"args_{index}"] = _templated({})
    before, after = _parameter_tag("\0", "false").split("\0")
    opened = f'{marked.literal(before)} /[^"\\n<>]+/ {marked.literal(after)}'
    return f'({opened} @args_{index} {marked.literal(f"</{DSML}parameter>")} "\\n")* "\\n"?'


def _parameter_tag(name: str, is_string: str) -> str:
    return f'<{DSML}parameter name="{name}" string="{is_string}">'


def _arguments_schema(function: Function, must_call: bool) -> Schema:
    if function.parameters is None:
        return NO_PARAMETERS
    if function.strict:
        return checked_schema(dict(function.parameters), PARAM)
    return relaxed_schema(dict(function.parameters), PARAM) if must_call else {"type": "object"}


def _call_schema(schemas: Sequence[tuple[str, Schema]], arguments_key: str, prefix: str = "") -> Schema:
    """One call as JSON: `{"name": …, "arguments": …}`, with the arguments that its name asks for."""
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


def _templated(schema: Schema) -> Schema:
    return {**schema, "x-guidance": TEMPLATE_JSON}
