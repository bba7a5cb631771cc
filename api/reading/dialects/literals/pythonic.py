"""Calls as Python expressions: Llama 4, Olmo 3, LFM2, and models that are shown `[func_name1(param1=value1)]`."""

import re
from collections.abc import Sequence
from typing import Any

from api.reading.dialects.call_grammar import PARAM, CallRules, MarkedCalls, marked_grammar
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.literals.notation import Notation
from api.reading.dialects.literals.python_calls import ARGUMENT, PythonCalls
from api.reading.dialects.literals.schema_rules import SchemaRules
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.llama3 import json_grammar
from api.reading.dialects.objects.marked_lists import MarkedList
from api.reading.pieces import CallPieces, Content, Piece
from common.grammar.answer import Grammar, MarkedText, assemble, quoted

LFM2_OPENING, LFM2_CLOSING = "<|tool_call_start|>", "<|tool_call_end|>"
LFM2_HINTS = (LFM2_OPENING, "<|tool_list_start|>", '"List of tools: ["')
OLMO_OPENING, OLMO_CLOSING = "<function_calls>", "</function_calls>"
LLAMA4_OPENING, LLAMA4_CLOSING = "<|python_start|>", "<|python_end|>"
LLAMA4_MARKS = (LLAMA4_OPENING, LLAMA4_CLOSING)
BARE = "[{"
MAX_LEAD = 400  # characters of white space and brackets before a call
SHOWN_LIST = re.compile(r"\[func_name1?\(")
ANY_TEXT = re.compile(r"(?s).*")


class PythonOrJson:
    """Python's calls, or JSON ones, which LFM2 writes if it is asked to and Llama 4 writes by itself.

    The closing marker may also stand right before the calls: Meta's template puts an assistant's text between the
    markers and the calls behind them.
    """

    def __init__(self, calls: CallPieces, before: str, closing: str) -> None:
        self._calls = calls
        self._before = before
        self._closing = closing
        self._lead = ""  # the text until it is clear which kind follows
        self._inner: MarkedList | PythonCalls | None = None

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        if self._inner is None:
            self._lead += text
            text = self._lead.lstrip().removeprefix(self._closing).lstrip()
            begun = text.lstrip("[ \n")
            if len(self._lead) < MAX_LEAD and (not begun or self._closing.startswith(text)):
                return [], None
            before = self._before + self._lead[: len(self._lead) - len(text)]
            if begun[:1] == "{" and len(self._lead) - len(begun) < MAX_LEAD:
                self._inner = MarkedList(self._calls, before, self._closing, new_call)
            else:
                self._inner = PythonCalls(self._calls, before, self._closing)
        return self._inner.read(text)

    def finish(self) -> list[Piece]:
        return self._inner.finish() if self._inner else [Content(self._before + self._lead)]


def new_call(calls: CallPieces, before: str) -> CallObject:
    return CallObject(calls, before, needs_arguments=True)


def lfm2_block(calls: CallPieces, before: str) -> PythonOrJson:
    return PythonOrJson(calls, before, LFM2_CLOSING)


def olmo_block(calls: CallPieces, before: str) -> PythonOrJson:
    return PythonOrJson(calls, before, OLMO_CLOSING)


def llama4_block(calls: CallPieces, before: str) -> PythonOrJson:
    return PythonOrJson(calls, before, LLAMA4_CLOSING)


def lfm2_grammar(rules: CallRules) -> Grammar:
    translated, call = call_rules_of(rules)
    rest = f'rest: "[" {call} {_further(rules, f"/, ?/ {call}")} {rules.marked.literal("]" + LFM2_CLOSING)}'
    return marked_grammar(rules, MarkedCalls(LFM2_OPENING, (rest, *translated.lines), translated.schemas))


def olmo_grammar(rules: CallRules) -> Grammar:
    """One call a line. Some templates put the markers on lines of their own, others do not."""
    translated, call = call_rules_of(rules)
    further = _further(rules, f'"\\n" {call}')
    rest = f'rest: "\\n"? {call} {further} "\\n"? {rules.marked.literal(OLMO_CLOSING)}'
    return marked_grammar(rules, MarkedCalls(OLMO_OPENING, (rest, *translated.lines), translated.schemas))


def list_grammar(rules: CallRules) -> Grammar:
    """A list without markers. An answer that begins with a bracket or a brace is calls."""
    translated, call = call_rules_of(rules)
    free = "" if rules.must_call else "TEXT? | "
    lines = [f'start: {free}"[" {call} {_further(rules, f"/, ?/ {call}")} "]"', r"TEXT: /\s*([^\s\[{](.|\n)*)?/"]
    return assemble([*lines, *translated.lines], translated.schemas, PARAM)


def llama4_grammar(rules: CallRules) -> Grammar:
    """One call as JSON, which Meta's own template writes."""
    return json_grammar(rules, LLAMA4_OPENING, BARE)


def call_rules_of(rules: CallRules) -> tuple[SchemaRules, str]:
    """The rules of the functions' arguments, and an expression for one call."""
    translated = SchemaRules(NOTATION, rules)
    ways = [
        f"{rules.marked.literal(name + '(')} {translated.arguments(name, schema)} {quoted(')')}"
        for name, schema in rules.schemas
    ]
    translated.lines.append(f"call_of_one: {' | '.join(ways)}")
    return translated, "call_of_one"


def lfm2_calls(calls: Sequence[tuple[str, Any]]) -> str:
    return f"{LFM2_OPENING}[{', '.join(_written(*call) for call in calls)}]{LFM2_CLOSING}"


def olmo_calls(calls: Sequence[tuple[str, Any]]) -> str:
    return "\n".join([OLMO_OPENING, *(_written(*call) for call in calls), OLMO_CLOSING])


def list_calls(calls: Sequence[tuple[str, Any]]) -> str:
    return f"[{', '.join(_written(*call) for call in calls)}]"


def _written(name: str, arguments: Any) -> str:
    if isinstance(arguments, dict):
        arguments = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}({arguments})"


def _further(rules: CallRules, call: str) -> str:
    return f"({call}){{0,{rules.most_calls - 1}}}" if rules.parallel else ""


def _string(_: MarkedText, rule: str, least: int, most: int | None) -> list[str]:
    """Either kind of quotes. Line breaks and the string's own quotes are escaped."""
    count = f"{{{least},{'' if most is None else most}}}" if least or most is not None else "*"
    terminal = rule.upper()
    return [
        f"{rule}: {terminal}_DOUBLE | {terminal}_SINGLE",
        *(
            f"{terminal}_{name}: /{mark}([^{mark}\\\\\\n\\r]|\\\\[\"'\\\\nrt]){count}{mark}/"
            for name, mark in (("DOUBLE", '"'), ("SINGLE", "'"))
        ),
    ]


def _constant(_: MarkedText, text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    ways = (mark + plain.replace(mark, "\\" + mark) + mark for mark in "\"'")
    return f"({' | '.join(map(quoted, ways))})"


def _key(marked: MarkedText, name: str) -> str:
    return f"{_constant(marked, name)} /: ?/"


def _argument(marked: MarkedText, name: str) -> str:
    return marked.literal(name + "=")


NOTATION = Notation(
    string=_string,
    constant=_constant,
    key=_key,
    argument=_argument,
    any_key="string /: ?/",
    any_argument="/[A-Za-z_][A-Za-z0-9_]{0,63}=/",
    key_names=ANY_TEXT,
    argument_names=ARGUMENT,
    true='("True" | "true")',
    false='("False" | "false")',
    null='("None" | "null")',
    comma="/, ?/",
)


def detect_lfm2(template: str, architecture: str) -> bool:
    return any(hint in template for hint in LFM2_HINTS) or architecture.startswith("lfm2")


def detect_olmo(template: str, _: str) -> bool:
    return OLMO_OPENING in template


def detect_list(template: str, _: str) -> bool:
    return bool(SHOWN_LIST.search(template))


def detect_llama4(template: str, _: str) -> bool:
    return LLAMA4_OPENING in template


LFM2 = ToolDialect(
    *("lfm2", (LFM2_OPENING,), detect_lfm2, lfm2_block, lfm2_grammar),
    further_marks=(LFM2_CLOSING,),
    write_calls=lfm2_calls,
)
OLMO3 = ToolDialect(
    *("olmo3", (OLMO_OPENING,), detect_olmo, olmo_block, olmo_grammar),
    further_marks=(OLMO_CLOSING,),
    write_calls=olmo_calls,
)
PYTHONIC = ToolDialect(
    *("pythonic", LLAMA4_MARKS, detect_list, llama4_block, list_grammar, BARE), write_calls=list_calls
)
LLAMA4 = ToolDialect("llama4", LLAMA4_MARKS, detect_llama4, llama4_block, llama4_grammar, BARE)
PYTHONICS = (PYTHONIC, LLAMA4, LFM2, OLMO3)
