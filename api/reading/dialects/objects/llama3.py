"""Llama 3: an answer that is `{"name": …, "parameters": {…}}`, sometimes after `<|python_tag|>`; several by `;`.

Built-in tools are called in Python, `<|python_tag|>brave_search.call(query="…")`.
"""

import re

from api.reading.dialects.call_grammar import PARAM, CallRules, call_schema, templated
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.literals.python_calls import PythonCalls
from api.reading.dialects.objects.call_object import CallObject
from api.reading.pieces import CallPieces, Piece
from common.grammar.answer import Grammar, assemble

OPENING = "<|python_tag|>"
BARE = "{"
BETWEEN = " \t\r\n;,"


class Llama3Block:
    """From the first brace on. Any text other than another call ends the block."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._before = before
        self._call = CallObject(calls, before, needs_arguments=True)
        self._code: PythonCalls | None = None
        self._may_be_code = before.endswith(OPENING)

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        if self._may_be_code and (begun := text.lstrip()):
            self._may_be_code = False
            if begun[0].isalpha():
                self._code = PythonCalls(self._calls, self._before, suffix=".call")
        if self._code:
            return self._code.read(text)
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call.is_done and not self._call.is_spoilt:
                if char in BETWEEN:
                    continue
                if char != "{":
                    return pieces, text[position:]
                self._call = CallObject(self._calls, needs_arguments=True)
            if not self._call.is_spoilt:
                pieces += self._call.take(char)
            if self._call.is_broken:
                return pieces, text[position + 1 :]
        return pieces, None

    def finish(self) -> list[Piece]:
        return (self._code or self._call).finish()


def grammar(rules: CallRules) -> Grammar:
    return json_grammar(rules, OPENING, BARE)


def json_grammar(rules: CallRules, opening: str, bare: str) -> Grammar:
    """One call. The marker is optional: an answer that begins with one of the characters in `bare` is a call."""
    tag = f"({rules.marked.literal(opening)})? " if opening in rules.marked.special_tokens else ""
    free = "" if rules.must_call else "TEXT? | "
    lines = [f"start: {free}{tag}@call", f"TEXT: /\\s*[^\\s{re.escape(bare)}](.|\\n)*/"]
    return assemble(lines, {"call": templated(call_schema(rules.schemas, "parameters"))}, PARAM)


def detect(template: str, _: str) -> bool:
    return OPENING in template or '"parameters": ' in template


LLAMA3_JSON = ToolDialect("llama3_json", (OPENING,), detect, Llama3Block, grammar, bare=BARE)
