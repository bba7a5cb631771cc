"""Parses calls written as Python expressions: `name(key=value, …)`, in a list or one after another."""

import json
import re
from typing import Literal

from api.reading.dialects.json_value import SPACE
from api.reading.dialects.literals.closing import ClosingMark
from api.reading.dialects.literals.python_string import TEXT_END
from api.reading.dialects.literals.python_value import MAX_AHEAD, PythonValue
from api.reading.pieces import CallPieces, Content, Piece

NAME = re.compile(r"[\w.-]+")
ARGUMENT = re.compile(r"[^\s=,()\[\]{}'\"#]+")
BETWEEN = " \t\r\n;,"
# What follows the quote at the end of an argument: another argument, or the end of the call and what comes after it.
NEXT_ARGUMENT = rf",\s*{ARGUMENT.pattern}\s*="
IN_LIST = re.compile(rf"\s*(?:{NEXT_ARGUMENT}|,?\s*\)\s*(?:[\]{TEXT_END}]|,\s*{NAME.pattern}\())")
IN_LINES = re.compile(rf"\s*(?:{NEXT_ARGUMENT}|,?\s*\)\s*(?:[;<{TEXT_END}]|,?\s*{NAME.pattern}\())")
BEGINNING = re.compile(rf"\s*(?:,\s*(?:{ARGUMENT.pattern}\s*)?|,?\s*\)\s*(?:,?\s*(?:{NAME.pattern})?)?)?")

State = Literal["between", "name", "open", "argument", "equals", "value", "after", "comma"]
Verdict = Literal["more", "over", "beyond", "bad"]  # over: the block ends with this character; beyond: before it


class PythonCalls:
    """From the first bracket or name on, to the closing marker, which may be missing ("": there is none)."""

    def __init__(self, calls: CallPieces, before: str, closing: str = "", *, suffix: str = "") -> None:
        self._calls = calls
        self._raw = before  # the text since the last call, in case that no call begins
        self._closing = ClosingMark(closing)
        self._suffix = suffix  # that the name of every function has here, and that is left out
        self._state: State = "between"
        self._is_listed = False
        self._has_called = False
        self._is_started = False  # the present call was given out
        self._is_over = False
        self._is_spoilt = False
        self._name = ""
        self._key = ""
        self._before_key = ""
        self._is_key_due = False  # it is given out with the first piece of its value
        self._value = self._new_value()

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        pieces: list[Piece] = []
        position = 0
        while position < len(text):
            if self._is_over:
                return pieces, self._closing.after(text[position:], is_spoilt=self._is_spoilt)
            char = text[position]
            position += 1
            self._raw += "" if self._is_started else char
            verdict = self._take(char, pieces)
            if self._value.rest:
                text, position, self._value.rest = self._value.rest + text[position:], 0, ""
            if verdict == "bad" and not self._is_started:
                return [*pieces, Content(self._unread())], text[position:]
            if verdict != "more":
                self._is_over, self._is_spoilt = True, verdict == "bad"
                position -= verdict == "beyond"
        return pieces, None

    def finish(self) -> list[Piece]:
        if self._is_over:
            return []
        if self._state == "value":
            took, written = self._value.finish()
            if took == "beyond":
                rest, self._value.rest, self._state = self._value.rest, "", "after"
                return [self._calls.arguments(written), *self.read(rest)[0]]
        is_text = not self._is_started and not (self._has_called and self._state == "between")
        return [Content(self._unread())] if is_text else []

    def _unread(self) -> str:
        return self._raw.lstrip(BETWEEN) if self._has_called else self._raw

    def _take(self, char: str, pieces: list[Piece]) -> Verdict:
        if self._state == "value":
            return self._take_value(char, pieces)
        if self._state == "between":
            return self._take_between(char)
        if self._state == "name" and char != "(":
            self._name += char
            return "more" if NAME.fullmatch(char) else "bad"
        if self._state == "argument" and ARGUMENT.fullmatch(char):
            self._key += char
        elif self._state in ("argument", "equals") and char == "=":
            self._state, self._value = "value", self._new_value()
        elif self._state in ("open", "after", "comma") and char == ")":
            pieces += [*self._start(), self._calls.arguments("}" if self._key else "{}"), self._calls.end()]
            self._state, self._raw, self._is_started, self._has_called = "between", "", False, True
        elif self._state in ("open", "comma") and ARGUMENT.fullmatch(char):
            self._before_key = ", " if self._key else "{"
            self._state, self._key, self._is_key_due = "argument", char, True
        elif self._state == "after" and char == ",":
            self._state = "comma"
        elif self._state == "name" and self._name.endswith(self._suffix):
            self._state, self._key = "open", ""
        elif char not in SPACE:
            return "bad"
        elif self._state == "argument":
            self._state = "equals"
        return "more"

    def _take_between(self, char: str) -> Verdict:
        if char in BETWEEN:
            return "more" if self._has_called or char in SPACE else "bad"
        if char == "[" and not self._is_listed and not self._has_called:
            self._is_listed = True
            return "more"
        if char == "]" and self._is_listed and self._has_called:
            return "over"
        if NAME.fullmatch(char):
            self._state, self._name = "name", char
            return "more"
        return "beyond" if self._has_called else "bad"

    def _take_value(self, char: str, pieces: list[Piece]) -> Verdict:
        took, written = self._value.take(char)
        if took == "bad":
            return "bad"
        if written:
            pieces += self._start()
            if self._is_key_due:
                written = f"{self._before_key}{json.dumps(self._key, ensure_ascii=False)}: {written}"
                self._is_key_due = False
            pieces.append(self._calls.arguments(written))
        if took != "more":
            self._state = "after"
        return "more"

    def _new_value(self) -> PythonValue:
        after = IN_LIST if self._is_listed else IN_LINES
        return PythonValue(lambda text: _is_after_argument(text, after))

    def _start(self) -> list[Piece]:
        if self._is_started:
            return []
        self._is_started = True
        return [self._calls.start(self._name.removesuffix(self._suffix))]


def _is_after_argument(text: str, after: re.Pattern[str]) -> bool | None:
    """True if a quote before this text ends an argument; None while that is open."""
    if after.match(text):
        return True
    return None if BEGINNING.fullmatch(text) and len(text) < MAX_AHEAD else False
