"""Lists of JSON calls between two markers: Phi-4-mini, Firefunction, Hunyuan, Jamba, Apriel, Nemotron v2, Apertus.

MiniMax M1 puts them on lines of their own, and Granite 3 has no closing marker.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, call_schema, marked_grammar, templated
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.json_value import SPACE, Took
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.named_object import NamedObject
from api.reading.pieces import CallPieces, Content, Piece, num_held
from common.grammar.answer import Grammar
from common.grammar.json_schema import Schema, rebased_schema

GAP = "gap: /[ \\n]{0,9}/"  # templates put objects on lines of their own, or behind a space


class OneCall(Protocol):
    """Parses one JSON object of the list, as CallObject does."""

    is_broken: bool
    is_spoilt: bool

    @property
    def is_done(self) -> bool: ...

    def take(self, char: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


Schemas = Sequence[tuple[str, Schema]]
NewCall = Callable[[CallPieces, str], OneCall]


class MarkedList:
    """From after the opening marker to the closing one, which may be missing at the end of an answer, or be none ("").

    The objects stand in a list, or on their own with white space or commas between them.
    """

    def __init__(self, calls: CallPieces, before: str, closing: str, new_call: NewCall) -> None:
        self._calls = calls
        self._before = before  # text of the block so far, until a call is begun
        self._closing = closing
        self._new_call = new_call
        self._call: OneCall | None = None
        self._state: Literal["open", "listed", "ended"] = "listed" if before.endswith("[") else "open"
        self._mark = ""  # what may be the closing marker

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call and not self._call.is_done:
                pieces += self._call.take(char)
                if self._call.is_broken:
                    return pieces, text[position + 1 :]
            elif self._call and self._call.is_spoilt:
                return pieces, self._after_fault(text[position:])
            elif (took := self._take_between(char)) != "more":
                rest = self._mark + text[position:] if took == "beyond" else text[position + 1 :]
                return pieces if self._call else [Content(self._before)], rest
        return pieces, None

    def finish(self) -> list[Piece]:
        return self._call.finish() if self._call else [Content(self._before + self._mark)]

    def _take_between(self, char: str) -> Took:
        """Take a character outside the calls. `last`: the block ends with it; `beyond`: it ended before `_mark`."""
        mark = self._mark + char
        if self._closing.startswith(mark):
            self._mark = mark
            if mark != self._closing:
                return "more"
            self._before += mark
            return "last"
        if self._mark:
            return "beyond"
        if char == "{" and self._state != "ended":
            self._call = self._new_call(self._calls, "" if self._call else self._before)
            self._call.take(char)
            return "more"
        if char == "[" and self._state == "open" and self._call is None:
            self._state = "listed"
        elif char == "]" and self._state == "listed" and self._call:
            self._state = "ended"
            return "more" if self._closing else "last"
        elif char not in SPACE and not (char == "," and self._call and self._state != "ended"):
            return "beyond"
        self._before += "" if self._call else char
        return "more"

    def _after_fault(self, text: str) -> str | None:
        """The text after the closing marker, when a call of the block has broken off."""
        text = self._mark + text
        _, closing, rest = text.partition(self._closing) if self._closing else ("", "", "")
        self._mark = text[len(text) - num_held(text, [self._closing]) :] if self._closing else ""
        return rest if closing else None


def marked_lists(
    name: str,
    hint: str,
    *marks: tuple[str, str],
    new_call: NewCall = CallObject,
    written: Callable[[Schemas], Schema] = lambda schemas: call_schema(schemas, "arguments"),
    in_lines: bool = False,
) -> ToolDialect:
    """One such dialect.

    `hint`: a text of its templates. `marks`: each opening marker and its closing one; the grammar writes the first.
    `written`: the schema of one object. `in_lines`: objects stand on lines of their own instead of in a list.
    """
    opening, closing = marks[0]

    def new_block(calls: CallPieces, before: str) -> MarkedList:
        return MarkedList(calls, before, next(end for begin, end in marks if before.endswith(begin)), new_call)

    def grammar(rules: CallRules) -> Grammar:
        literal = rules.marked.literal
        if in_lines:
            rests = [f'("\\n" @call){{1,{rules.most_calls}}} {literal(chr(10) + closing)}']
        else:
            more = f'("," gap @call){{0,{rules.most_calls - 1}}} ' if rules.parallel else ""
            begins = ("" if begin.endswith("[") else '"[" ' for begin, _ in marks)
            rests = [
                f"{begin}gap @call {more}gap {literal(']' + end)}"
                for begin, (_, end) in zip(begins, marks, strict=True)
            ]
        names = ["rest", *(f"rest_{index}" for index in range(1, len(rests)))]
        lines = [f"{name}: {rest}" for name, rest in zip(names, rests, strict=True)]
        return marked_grammar(
            rules,
            MarkedCalls(
                opening,
                (*lines, *(() if in_lines else (GAP,))),
                {"call": templated(written(rules.schemas))},
                also=tuple((begin, name) for (begin, _), name in zip(marks[1:], names[1:], strict=True)),
            ),
        )

    def detect(template: str, _: str) -> bool:
        return hint in template

    def write_calls(calls: Sequence[tuple[str, Any]]) -> str:
        listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
        return f"{opening.removesuffix('[')}{json.dumps(listed, ensure_ascii=False)}{closing}"

    openings, closings = zip(*marks, strict=True)
    return ToolDialect(
        *(name, openings, detect, new_block, grammar),
        further_marks=tuple(filter(None, closings)),
        write_calls=write_calls if new_call is CallObject and not in_lines else None,
    )


def named_schema(schemas: Schemas) -> Schema:
    """One call as `{NAME: arguments}`."""
    ways = []
    for index, (name, schema) in enumerate(schemas):
        arguments = rebased_schema(schema, f"/anyOf/{index}/properties/{name}")
        ways.append(
            {"type": "object", "properties": {name: arguments}, "required": [name], "additionalProperties": False}
        )
    return {"anyOf": ways}


APERTUS = marked_lists(
    "apertus",
    "<|tools_prefix|>",
    ("<|tools_prefix|>", "<|tools_suffix|>"),
    new_call=NamedObject,
    written=named_schema,
)
MINIMAX_M1 = marked_lists("minimax_m1", '<tool_calls>\\n{"name": ', ("<tool_calls>", "</tool_calls>"), in_lines=True)
NEMOTRON_V2 = marked_lists("nemotron_v2", "<TOOLCALL>", ("<TOOLCALL>", "</TOOLCALL>"))
PHI4 = marked_lists("phi4", "<|/tool|>", ("<|tool_call|>", "<|/tool_call|>"), ("functools[", ""))
FUNCTOOLS = marked_lists("functools", "functools[", ("functools[", ""), ("<|tool_call|>", "<|/tool_call|>"))
TOOL_CALLS = marked_lists("tool_calls", "<tool_calls>", ("<tool_calls>", "</tool_calls>"))
GRANITE3 = marked_lists("granite3", "available_tools<|end_of_role|>", ("<|tool_call|>", ""), ("<tool_call>", ""))
MARKED_LISTS = (APERTUS, MINIMAX_M1, NEMOTRON_V2, PHI4, GRANITE3, FUNCTOOLS, TOOL_CALLS)
