"""Gemma 4 and FunctionGemma: `call:NAME{key:…,key:…}` between two markers, with a third one around strings."""

import re
from functools import partial

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, marked_grammar
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.literals.closing import ClosingMark
from api.reading.dialects.literals.marked_value import MarkedObject
from api.reading.dialects.literals.notation import Notation
from api.reading.dialects.literals.schema_rules import SchemaRules
from api.reading.pieces import CallPieces, Content, Piece
from common.grammar.answer import Grammar, MarkedText

CALL = "call:"
HEADER = re.compile(r"\s*call:\s*([\w.-]+)\s*\{")
HEADER_BEGINNING = re.compile(r"\s*(?:c|ca|cal|call|call:\s*[\w.-]*\s*)?")
MAX_HEADER = 400
NAMES = re.compile(r'[^\s:,{}\[\]<"]+')


class GemmaBlock:
    """From after the opening marker to the closing one, which may be missing."""

    def __init__(self, calls: CallPieces, before: str, mark: str, closing: str) -> None:
        self._calls = calls
        self._before = before  # text of the block so far, until the call is certain
        self._header = ""
        self._mark = mark
        self._arguments: MarkedObject | None = None
        self._closing = ClosingMark(closing)
        self._is_over = False
        self._is_spoilt = False

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._is_over:
                return pieces, self._closing.after(text[position:], is_spoilt=self._is_spoilt)
            if self._arguments is None:
                self._header += char
                if char == "{" and (header := HEADER.fullmatch(self._header)):
                    self._arguments = MarkedObject(self._mark, partial(self._calls.kind_of, header[1]))
                    pieces += [self._calls.start(header[1]), self._calls.arguments("{")]
                elif len(self._header) > MAX_HEADER or not HEADER_BEGINNING.fullmatch(self._header):
                    return [Content(self._before + self._header)], text[position + 1 :]
                continue
            took, written = self._arguments.take(char)
            pieces.append(self._calls.arguments(written))
            if took != "more":
                self._is_over, self._is_spoilt = True, took == "bad"
                pieces += [] if self._is_spoilt else [self._calls.end()]
        return pieces, None

    def finish(self) -> list[Piece]:
        return [] if self._arguments else [Content(self._before + self._header)]


def gemma(name: str, hint: str, opening: str, mark: str, closing: str) -> ToolDialect:
    """One such dialect. `hint`: a text of its templates."""

    def new_block(calls: CallPieces, before: str) -> GemmaBlock:
        return GemmaBlock(calls, before, mark, closing)

    def grammar(rules: CallRules) -> Grammar:
        translated = SchemaRules(notation_of(mark), rules)
        literal = rules.marked.literal
        ways = [
            f"{literal(CALL + name + '{')} {translated.arguments(name, schema)} {literal('}' + closing)}"
            for name, schema in rules.schemas
        ]
        lines = (f"rest: {' | '.join(ways)}", *translated.lines)
        return marked_grammar(rules, MarkedCalls(opening, lines, translated.schemas, between=""))

    def detect(template: str, _: str) -> bool:
        return hint in template

    return ToolDialect(name, (opening,), detect, new_block, grammar, reads_kinds=True, further_marks=(mark, closing))


def notation_of(mark: str) -> Notation:
    """Values as the templates write them: no spaces, sorted keys without quotes."""

    def string(marked: MarkedText, rule: str, least: int, most: int | None) -> list[str]:
        if not least and most is None:
            return [f"{rule}: {marked.literal(mark)} {rule}_end", *marked.until(f"{rule}_end", mark)]
        count = f"{{{least},{'' if most is None else most}}}"
        if mark in marked.special_tokens:  # no text is read as the marker
            return [
                f"{rule}: {marked.literal(mark)} {rule}_text {marked.literal(mark)}",
                f"{rule}_text: /(.|\\n){count}/",
            ]
        end = re.escape(mark)
        terminal = rule.upper()
        return [
            f"{rule}: {marked.literal(mark)} {terminal}",
            f"{terminal}: /(.|\\n){count}{end}/ & ~/(.|\\n)*{end}(.|\\n)+/",
        ]

    def constant(marked: MarkedText, text: str) -> str:
        return f"{marked.literal(mark)} {marked.literal(text + mark)}"  # in two, or it would shadow other strings

    def key(marked: MarkedText, name: str) -> str:
        return marked.literal(f"{name}:")

    any_key = "/[A-Za-z_][A-Za-z0-9_]{0,63}:/"
    return Notation(
        string=string,
        constant=constant,
        key=key,
        argument=key,
        any_key=any_key,
        any_argument=any_key,
        key_names=NAMES,
        argument_names=NAMES,
        true='"true"',
        false='"false"',
        null='"None"',
        comma='","',
        is_sorted=True,
    )


GEMMA4 = gemma("gemma4", "<|tool_call>call:", "<|tool_call>", '<|"|>', "<tool_call|>")
FUNCTION_GEMMA = gemma(
    "function_gemma", "<start_function_call>", "<start_function_call>", "<escape>", "<end_function_call>"
)
