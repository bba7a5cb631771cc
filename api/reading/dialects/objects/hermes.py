"""Hermes and Qwen: `<tool_call>` + `{"name": …, "arguments": {…}}` + `</tool_call>`, once per call."""

import json
from collections.abc import Sequence
from typing import Any

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, call_schema, marked_grammar, templated
from api.reading.dialects.dialect import BlockParser, ToolDialect
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.chosen_block import ChosenBlock
from api.reading.dialects.objects.marked_lists import MarkedList
from api.reading.pieces import CallPieces, Piece, num_held
from common.grammar.answer import Grammar

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
STRAY = " \t\r\n}"  # models often write one closing brace too many


def new_block(calls: CallPieces, before: str) -> ChosenBlock:
    """From after `<tool_call>` to `</tool_call>`. Some models write a list of calls there."""

    def choose(first: str, calls: CallPieces, before: str) -> BlockParser:
        return MarkedList(calls, before, CLOSING, CallObject) if first == "[" else HermesCall(calls, before)

    return ChosenBlock(calls, before, choose)


class HermesCall:
    """One call and what stands between it and `</tool_call>`."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._call = CallObject(calls, before)
        self._tail = ""

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call.is_done:
                return pieces, self._end(text[position:])
            pieces += self._call.take(char)
            if self._call.is_broken:
                return pieces, text[position + 1 :]
        return pieces, None

    def finish(self) -> list[Piece]:
        return self._call.finish()

    def _end(self, text: str) -> str | None:
        """The text after the closing marker, or after the call if the marker is missing. None while undecided."""
        self._tail += text
        if self._call.is_spoilt:
            _, closing, rest = self._tail.partition(CLOSING)
            self._tail = self._tail[len(self._tail) - num_held(self._tail, [CLOSING]) :]
            return rest if closing else None
        self._tail = self._tail.lstrip(STRAY)
        if self._tail.startswith(CLOSING):
            return self._tail[len(CLOSING) :]
        return None if CLOSING.startswith(self._tail) else self._tail


def grammar(rules: CallRules) -> Grammar:
    rest = f'rest: "\\n" @call {rules.marked.literal(chr(10) + CLOSING)}'
    call = templated(call_schema(rules.schemas, "arguments"))
    return marked_grammar(rules, MarkedCalls(OPENING, (rest,), {"call": call}, between="\n"))


def detect(template: str, _: str) -> bool:
    return OPENING in template


def write_calls(calls: Sequence[tuple[str, Any]]) -> str:
    written = (json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls)
    return "\n".join(f"{OPENING}\n{call}\n{CLOSING}" for call in written)


HERMES = ToolDialect("hermes", (OPENING,), detect, new_block, grammar, write_calls=write_calls)
