"""DeepSeek V3.2: a `function_calls` block of `invoke` tags, whose `parameter` tags hold plain strings or JSON."""

import json
import re
from typing import Literal

from api.reading.dialects.call_grammar import PARAM, CallRules, MarkedCalls, marked_grammar, templated
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.json_value import strict_json
from api.reading.pieces import CallPieces, Content, Piece, num_held
from common.errors import InvalidRequest
from common.grammar.answer import Grammar, MarkedText
from common.grammar.json_schema import Schema, property_schema, refers

DSML = "｜DSML｜"
OPENING = f"<{DSML}function_calls>"
CLOSING = f"</{DSML}function_calls>"
INVOKE_END = f"</{DSML}invoke>"
PARAMETER_END = f"</{DSML}parameter>"
INVOKE = re.compile(f'<{DSML}invoke name="([^"]+)">')
PARAMETER = re.compile(f'<{DSML}parameter name="([^"]+)" string="(true|false)">')
MAX_TAG = 512
PARAMETER_KEYS = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})


class DsmlBlock:
    """From after the opening `function_calls` tag to the closing one."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._before = before  # text of the block so far, until a call is certain
        self._held = ""
        self._state: Literal["calls", "invoke", "string", "json", "spoilt"] = "calls"
        self._num_parameters = 0
        self._json = ""  # the value so far, which may have to be repaired
        self._has_called = False

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        self._held += text
        pieces: list[Piece] = []
        while True:
            if self._state in ("string", "json"):
                has_moved = self._read_value(pieces)
            elif self._state == "spoilt":
                _, closing, rest = self._held.partition(CLOSING)
                self._held = self._held[len(self._held) - num_held(self._held, [CLOSING]) :]
                return pieces, rest if closing else None
            else:
                tag = self._next_tag()
                if tag == CLOSING and self._state == "calls" and self._has_called:
                    return pieces, self._held
                has_moved = tag is not None
                if tag is not None and not self._read_tag(tag, pieces):
                    if not self._has_called:
                        return [Content(self._before)], self._held
                    self._state = "spoilt"
            if not has_moved:
                return pieces, None

    def finish(self) -> list[Piece]:
        return [] if self._has_called else [Content(self._before + self._held)]

    def _next_tag(self) -> str | None:
        """The next tag, or a character that does not begin one; None while undecided."""
        begun = self._held.lstrip()
        end = begun.find(">") + 1
        if not begun or (begun[0] == "<" and not end and len(begun) <= MAX_TAG):
            return None
        tag = begun[:end] if begun[0] == "<" and end else begun[0]
        num_read = len(self._held) - len(begun) + len(tag)
        if not self._has_called:
            self._before += self._held[:num_read]
        self._held = self._held[num_read:]
        return tag

    def _read_tag(self, tag: str, pieces: list[Piece]) -> bool:
        """False if the tag is not allowed here."""
        if self._state == "calls" and (invoke := INVOKE.fullmatch(tag)):
            self._state, self._num_parameters, self._has_called = "invoke", 0, True
            pieces.append(self._calls.start(invoke[1]))
        elif self._state == "invoke" and (parameter := PARAMETER.fullmatch(tag)):
            is_string = parameter[2] == "true"
            comma = ", " if self._num_parameters else "{"
            self._num_parameters += 1
            self._state, self._json = ("string" if is_string else "json"), ""
            quote = '"' if is_string else ""
            pieces.append(self._calls.arguments(f"{comma}{json.dumps(parameter[1], ensure_ascii=False)}: {quote}"))
        elif self._state == "invoke" and tag == INVOKE_END:
            self._state = "calls"
            pieces += [self._calls.arguments("}" if self._num_parameters else "{}"), self._calls.end()]
        else:
            return False
        return True

    def _read_value(self, pieces: list[Piece]) -> bool:
        """Consume the part of a value that is certain. True once the value has ended."""
        value, closing, rest = self._held.partition(PARAMETER_END)
        if not closing:
            value = value[: len(value) - num_held(value, [PARAMETER_END])]
            rest = self._held[len(value) :]
        self._held = rest
        if self._state == "string":
            written = json.dumps(value, ensure_ascii=False)[1:-1] + ('"' if closing else "")
            pieces.append(self._calls.arguments(written))
        else:
            self._json += value
            pieces += [self._calls.arguments(_as_json(self._json))] if closing else []
        if closing:
            self._state = "invoke"
        return bool(closing)


def _as_json(value: str) -> str:
    """The value as strict JSON. A value that is not JSON is taken as a string."""
    return strict_json(value) or json.dumps(value, ensure_ascii=False)


def grammar(rules: CallRules) -> Grammar:
    """Calls with their parameters in the order of the schema, one line each."""
    _refuse_joint_rules(rules)
    literal = rules.marked.literal
    lines = [
        f'rest: ("\\n" invoke){{1,{rules.most_calls}}} "\\n" {literal(CLOSING)}',
        "invoke: " + " | ".join(f"invoke_{index}" for index in range(len(rules.schemas))),
        *rules.marked.until("raw_value", PARAMETER_END),
    ]
    named: dict[str, Schema] = {}
    for index, (name, schema) in enumerate(rules.schemas):
        parameters = _parameter_rules(index, schema, named, rules.marked)
        opened = literal(f'<{DSML}invoke name="{name}">\n')
        lines.append(f"invoke_{index}: {opened} {parameters} {literal(INVOKE_END)}")
    return marked_grammar(rules, MarkedCalls(OPENING, tuple(lines), named, lead="\n\n"))


def _parameter_rules(index: int, schema: Schema, named: dict[str, Schema], marked: MarkedText) -> str:
    """The parameters' rules. Plain strings are written without quotes, every other value as JSON."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return '"\\n"?' if schema.get("additionalProperties") is False else _any_parameters(index, named, marked)
    parameters = []
    for place, (name, value) in enumerate(properties.items()):
        if isinstance(value, dict) and value.keys() == {"type"} and value["type"] == "string":
            written = f"{marked.literal(_parameter_tag(name, 'true'))} raw_value"
        else:
            rule = f"args_{index}_{place}"
            named[rule] = templated(property_schema(schema, name))
            written = f"{marked.literal(_parameter_tag(name, 'false'))} @{rule} {marked.literal(PARAMETER_END)}"
        is_required = name in schema.get("required", ())
        parameters.append(f'{written} "\\n"' if is_required else f'({written} "\\n")?')
    return " ".join([*parameters, '"\\n"?'])


def _any_parameters(index: int, named: dict[str, Schema], marked: MarkedText) -> str:
    named[f"args_{index}"] = templated({})
    before, after = _parameter_tag("\0", "false").split("\0")
    opened = f'{marked.literal(before)} /[^"\\n<>]+/ {marked.literal(after)}'
    return f'({opened} @args_{index} {marked.literal(PARAMETER_END)} "\\n")* "\\n"?'


def _parameter_tag(name: str, is_string: str) -> str:
    return f'<{DSML}parameter name="{name}" string="{is_string}">'


def _refuse_joint_rules(rules: CallRules) -> None:
    """Parameters are enforced one by one, each by its own schema; a strict schema's rules across them cannot be."""
    for name, schema in rules.schemas:
        if name in rules.strict_names and (joint := sorted(schema.keys() - PARAMETER_KEYS)):
            raise InvalidRequest(
                f"This model's calls cannot be made to follow {joint[0]!r} at the top of a strict schema "
                f"(function {name!r}).",
                param=PARAM,
            )


def schema_copies(schema: Schema) -> int:
    """Each parameter that has references is written with the whole schema."""
    properties = schema.get("properties")
    return sum(map(refers, properties.values())) if isinstance(properties, dict) else 1


def detect(template: str, architecture: str) -> bool:
    return architecture == "deepseek_v32" or OPENING in template


DEEPSEEK_V32 = ToolDialect("deepseek_v32", (OPENING,), detect, DsmlBlock, grammar, schema_copies=schema_copies)
