"""Mistral: `[TOOL_CALLS]` + `[{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name[ARGS]{…}` per call.

Tokenizers of version 11 have `[CALL_ID]` and an id before the `[ARGS]`, later ones have not.
"""

import re

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, call_schema, marked_grammar, templated
from api.reading.dialects.dialect import BlockParser, ToolDialect, short_id
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.chosen_block import ChosenBlock
from api.reading.dialects.objects.named_call import NAME, NamedCalls
from api.reading.pieces import CallPieces, Content, Piece
from common.grammar.answer import Grammar

OPENING = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"
HEADER = re.compile(rf"{NAME}(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")
CALLS = NamedCalls(begin=OPENING, head=f"{{name}}{ARGS}", header=HEADER)
CALLS_WITH_ID = NamedCalls(
    begin=OPENING, head=f"{{name}}{CALL_ID}{{id}}{ARGS}", header=HEADER, id_pattern="[a-zA-Z0-9]{9}"
)
BETWEEN = " \t\r\n,"


def new_block(calls: CallPieces, before: str) -> ChosenBlock:
    """From after `[TOOL_CALLS]` to the end of the list or of the single call."""

    def choose(first: str, calls: CallPieces, before: str) -> BlockParser:
        return ListBlock(calls, before) if first in "[{" else CALLS.new_block(calls, before)

    return ChosenBlock(calls, before, choose)


class ListBlock:
    """Calls as a JSON list, or a single one as an object."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._before = before
        self._call: CallObject | None = None
        self._is_list = False

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call and not self._call.is_done:
                pieces += self._call.take(char)
                if self._ends_block(self._call):
                    return pieces, text[position + 1 :]
            elif self._call and self._call.is_spoilt:
                continue
            elif char == "{":
                self._call = CallObject(self._calls, "" if self._call else self._before)
                self._call.take(char)
            elif self._has_ended_at(char):
                return pieces if self._call else [Content(self._before + char)], text[position + 1 :]
        return pieces, None

    def finish(self) -> list[Piece]:
        return self._call.finish() if self._call else [Content(self._before)]

    def _ends_block(self, call: CallObject) -> bool:
        return call.is_broken or (call.is_done and not self._is_list and not call.is_spoilt)

    def _has_ended_at(self, char: str) -> bool:
        if char in BETWEEN or (char == "[" and not self._is_list):
            self._is_list = self._is_list or char == "["
            self._before += "" if self._call else char
            return False
        return True


def list_grammar(rules: CallRules) -> Grammar:
    calls = call_schema(rules.schemas, "arguments", prefix="/items")
    array = {"type": "array", "items": calls, "minItems": 1, "maxItems": rules.most_calls}
    return marked_grammar(rules, MarkedCalls(OPENING, ('rest: " "? @calls',), {"calls": templated(array)}))


def detect_ids(template: str, _: str) -> bool:
    return OPENING in template and CALL_ID in template


def detect_list(template: str, _: str) -> bool:
    return OPENING in template and ARGS not in template


def detect_args(template: str, _: str) -> bool:
    return OPENING in template and ARGS in template


def history_id(call_id: str, _: str, __: int) -> str:
    """The templates refuse ids of other than nine letters and digits, which other servers make."""
    return call_id if re.fullmatch("[a-zA-Z0-9]{9}", call_id) else short_id(call_id, 9)


MISTRAL = ToolDialect(
    *("mistral", (OPENING,), detect_list, new_block, list_grammar), has_short_ids=True, history_id=history_id
)
MISTRAL_ARGS = ToolDialect(
    *("mistral_args", (OPENING,), detect_args, new_block, CALLS.write_grammar),
    has_short_ids=True,
    history_id=history_id,
    further_marks=(ARGS, CALL_ID),
)
MISTRAL_IDS = ToolDialect(
    *("mistral_ids", (OPENING,), detect_ids, new_block, CALLS_WITH_ID.write_grammar),
    has_short_ids=True,
    history_id=history_id,
    further_marks=(ARGS, CALL_ID),
)
