"""Calls written as marker, name, marker, JSON arguments, marker: one parser and one grammar for all such forms."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, marked_grammar, templated
from api.reading.dialects.dialect import BlockParser, HistoryId, ToolDialect
from api.reading.dialects.json_value import JsonValue
from api.reading.dialects.objects.call_object import decoded_arguments
from api.reading.pieces import CallPieces, Content, Piece, num_held
from common.grammar.answer import Grammar, MarkedText

NAME = r"([\w.-]+)"
MAX_HEADER = 256  # names have up to 128 characters
HEADER_BEGINNING = re.compile(r'\s*[^\s{"]*\s*(?:[`<\[][^{"]*)?')


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """The texts around a call's name and its arguments."""

    begin: str  # begins each call
    head: str  # from `begin` to the arguments, as it is written; {name}: the function; {id}: see `id_pattern`
    header: re.Pattern[str]  # the same as it is read; group 1: the name
    end: str = ""  # ends each call
    before_end: str = ""  # between the arguments and `end`
    section: tuple[str, str] = ("", "")  # around all calls of an answer
    is_end: bool = False  # the section's closing marker ends the answer: grammars leave it to the model
    between: str = ""  # between two calls
    id_pattern: str = ""

    @property
    def openings(self) -> tuple[str, ...]:
        """The markers that begin a block; a section's own is often missing."""
        return tuple(filter(None, (self.section[0], self.begin)))

    @property
    def marks(self) -> tuple[str, ...]:
        """The markers that may follow a call."""
        further = (self.begin, self.section[1]) if self.section[0] else ()
        return tuple(filter(None, (self.before_end.strip(), self.end, *further)))

    def new_block(self, calls: CallPieces, before: str) -> BlockParser:
        return NamedCallBlock(self, calls, before)

    def write_grammar(self, rules: CallRules) -> Grammar:
        """Calls as the template writes them."""
        marked, (opening, closing) = rules.marked, self.section
        named = {f"args_{index}": templated(schema) for index, (_, schema) in enumerate(rules.schemas)}
        end = _literal(self.before_end + self.end, marked)
        calls = [
            f"{self._head(name, marked)} @{arguments} {end}"
            for (name, _), arguments in zip(rules.schemas, named, strict=True)
        ]
        call = "call_written: " + " | ".join(calls)
        if not opening:
            rest = "rest: call_written"
            return marked_grammar(rules, MarkedCalls(self.begin, (rest, call), named, between=self.between))
        further = f"({marked.literal(self.between + self.begin)} call_written){{0,{rules.most_calls - 1}}}"
        closed = "" if self.is_end else marked.literal(closing)
        opened = f"opened_call: call_written {further if rules.parallel else ''} {closed}"
        rest = f"rest: {marked.literal(self.begin)} opened_call"
        also = ((self.begin, "opened_call"),)
        return marked_grammar(rules, MarkedCalls(opening, (rest, opened, call), named, also=also))

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        heads = [self.head.replace("{name}", name).replace("{id}", str(at)) for at, (name, _) in enumerate(calls)]
        texts = [json.dumps(arguments, ensure_ascii=False) for _, arguments in calls]
        end = self.before_end + self.end
        written = [f"{self.begin}{head}{text}{end}" for head, text in zip(heads, texts, strict=True)]
        return self.section[0] + self.between.join(written) + self.section[1]

    def _head(self, name: str, marked: MarkedText) -> str:
        before, hole, after = self.head.replace("{name}", name).partition("{id}")
        return f"{_literal(before, marked)} {f'/{self.id_pattern}/' if hole else ''} {_literal(after, marked)}"


def named_calls(
    name: str, form: NamedCalls, detect: Callable[[str, str], bool], history_id: HistoryId | None = None
) -> ToolDialect:
    """The dialect of a form."""
    return ToolDialect(
        *(name, form.openings, detect, form.new_block, form.write_grammar),
        further_marks=(form.head, form.end, form.section[1]),  # texts that may hold special tokens
        write_calls=form.write_calls,
        history_id=history_id,
    )


class NamedCallBlock:
    """From after the section's or a call's opening marker to the section's end, or to the call's without a section.

    A call is certain once its header is complete and its arguments begin. Other text ends the block.
    """

    def __init__(self, form: NamedCalls, calls: CallPieces, before: str) -> None:
        self._form = form
        self._calls = calls
        self._raw = before  # the text since the last call, in case that this is not a call
        self._held = ""
        is_in_section = bool(form.section[0]) and before.endswith(form.section[0])
        self._state: Literal["marks", "header", "object", "string", "spoilt", "over"]
        self._state = "marks" if is_in_section else "header"
        self._name = ""
        self._value = JsonValue()
        self._string: list[str] = []  # arguments written as a string of JSON

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        self._held += text
        pieces: list[Piece] = []
        steps = {
            "marks": self._read_mark,
            "header": self._read_header,
            "object": self._read_object,
            "string": self._read_string,
            "spoilt": self._read_spoilt,
        }
        while self._state != "over" and steps[self._state](pieces):
            pass
        return pieces, self._held if self._state == "over" else None

    def finish(self) -> list[Piece]:
        text = self._raw + self._held
        return [Content(text)] if text.strip() and self._state not in ("object", "spoilt") else []

    def _read_mark(self, pieces: list[Piece]) -> bool:
        """Consume a marker that follows a call. As of every step: False while more text is needed."""
        form = self._form
        begun = self._held.lstrip()
        if self._raw:
            self._raw += self._held[: len(self._held) - len(begun)]
        self._held = begun
        mark = next((mark for mark in form.marks if begun.startswith(mark)), None)
        if mark is None:
            if any(mark.startswith(begun) for mark in form.marks):
                return False
            return self._give_up(pieces)
        if self._raw or mark == form.begin:
            self._raw += mark
        self._held = begun[len(mark) :]
        if mark == form.begin:
            self._state = "header"
        elif mark == form.section[1] or not form.section[0] and mark == form.end:
            self._give_up(pieces)
        return True

    def _read_header(self, pieces: list[Piece]) -> bool:
        """Consume what stands before the arguments; they may be left out."""
        end = self._form.end
        ending = re.search('[{"]' + (f"|{re.escape(end)}" if end else ""), self._held[: MAX_HEADER + len(end) + 1])
        begun = self._held[: ending.end() - 1] if ending else self._held
        if len(begun) > MAX_HEADER or not HEADER_BEGINNING.fullmatch(begun):
            return self._give_up(pieces)
        if ending is None:
            return False
        header = self._form.header.fullmatch(self._held, 0, ending.start())
        if header is None:
            return self._give_up(pieces)
        self._name, self._held = header[1], self._held[ending.start() :]
        if ending[0] == end:
            return self._call(pieces, "{}")
        self._value, self._string = JsonValue(), []
        self._state = "object" if ending[0] == "{" else "string"
        if self._state == "object":
            pieces.append(self._calls.start(self._name))
            self._raw = ""
        else:
            self._raw += header[0]
        return True

    def _read_object(self, pieces: list[Piece]) -> bool:
        for position, char in enumerate(self._held):
            took, written = self._value.take(char)
            pieces.append(self._calls.arguments(written))
            if took == "bad":
                self._held, self._state = self._held[position:], "spoilt"
                return True
            if took == "last":
                pieces.append(self._calls.end())
                self._held, self._state = self._held[position + 1 :], "marks" if self._form.marks else "over"
                return True
        self._held = ""
        return False

    def _read_string(self, pieces: list[Piece]) -> bool:
        for position, char in enumerate(self._held):
            took, written = self._value.take(char)
            self._string.append(written)
            if took != "more":
                self._raw += self._held[: position + 1]
                self._held = self._held[position + 1 :]
                arguments = decoded_arguments("".join(self._string)) if took == "last" else None
                return self._give_up(pieces) if arguments is None else self._call(pieces, arguments)
        self._raw += self._held
        self._held = ""
        return False

    def _read_spoilt(self, _: list[Piece]) -> bool:
        """Drop the rest of a call whose arguments are not JSON."""
        marks = [mark for mark in (self._form.end, self._form.section[1]) if mark]
        places = [place for mark in marks if (place := self._held.find(mark)) >= 0]
        if places:
            self._held, self._state = self._held[min(places) :], "marks"
            return True
        self._held = self._held[len(self._held) - num_held(self._held, marks) :]
        return False

    def _call(self, pieces: list[Piece], arguments: str) -> bool:
        """A whole call at once."""
        pieces += [self._calls.start(self._name), self._calls.arguments(arguments), self._calls.end()]
        self._raw, self._state = "", "marks" if self._form.marks else "over"
        return True

    def _give_up(self, pieces: list[Piece]) -> bool:
        """End the block. Text that is not a call is content, and so is what follows."""
        if self._raw:
            pieces.append(Content(self._raw))
        self._state = "over"
        return True


def _literal(text: str, marked: MarkedText) -> str:
    return marked.literal(text) if text else ""
