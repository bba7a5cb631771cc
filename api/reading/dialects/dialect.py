"""The record that describes one tool-call dialect: how it is recognised, parsed while it streams, and enforced."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.reading.dialects.call_grammar import CallRules, OfferedFunction, call_rules
from api.reading.pieces import CallPieces, Piece
from common.grammar.answer import Grammar, MarkedText
from common.grammar.json_schema import Schema


class BlockParser(Protocol):
    """Parses one block of calls, from the end of its opening marker on."""

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        """Pieces, and the text that follows the block once the block has ended."""

    def finish(self) -> list[Piece]:
        """The pieces held back, when no text follows."""


def one_copy(_: Schema) -> int:
    return 1


HistoryId = Callable[[str, str, int], str]  # (id, function's name, the call's place in the conversation)
CallWriter = Callable[[Sequence[tuple[str, Any]]], str]  # names and arguments (text that is no JSON object, as it is)


@dataclass(frozen=True, slots=True)
class ToolDialect:
    """One form of tool calls. To add a dialect, write its file and add its record to `DIALECTS` in known.py."""

    name: str  # stored with jobs: never changed
    openings: tuple[str, ...]  # the markers that begin a block of calls anywhere in an answer
    detect: Callable[[str, str], bool]  # (chat template, architecture): whether such a model writes this dialect
    new_block: Callable[[CallPieces, str], BlockParser]  # (numbers the calls, held text with the marker at its end)
    write_grammar: Callable[[CallRules], Grammar]
    bare: str = ""  # an answer whose first character is one of these is a block too, without a marker
    has_short_ids: bool = False  # the templates refuse call ids of other than nine letters and digits
    history_id: HistoryId | None = None  # the id that a template wants in the history in place of a call's own
    reads_kinds: bool = False  # strings are written without quotes, so the schemas say what is a string
    reads_nested_kinds: bool = False  # also inside lists and objects
    further_marks: tuple[str, ...] = ()  # other texts of this form that may be special tokens of a model
    schema_copies: Callable[[Schema], int] = one_copy  # how often the grammar repeats a function's schema
    write_calls: CallWriter | None = None  # for models whose templates show no tools, or leave out earlier calls

    def grammar(
        self, functions: Sequence[OfferedFunction], *, must_call: bool, parallel: bool, marked: MarkedText
    ) -> Grammar | None:
        """The grammar of an answer that may call the functions; None where nothing has to be enforced.

        `must_call`: the answer is calls only (tool_choice required, or a named function, which then is the only one
        given). Otherwise the answer is free text in which a call, once begun, follows the rules.
        Raises InvalidRequest for schemas that cannot be enforced.
        """
        if not must_call and parallel and not any(function.strict for function in functions):
            return None
        rules = call_rules(functions, self.schema_copies, must_call=must_call, parallel=parallel, marked=marked)
        return self.write_grammar(rules)


def short_id(call_id: str, length: int) -> str:
    """Letters and digits for an id, always the same ones."""
    return hashlib.sha256(call_id.encode()).hexdigest()[:length]
