"""Parses one string literal of Python while it is being written, and emits its text as JSON."""

import codecs
import json
import re
from collections.abc import Callable

ESCAPE = re.compile(
    r"\\(?:[abfnrtv\\'\"\n]|[0-3][0-7]{2}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]{1,80}\})"
)
ESCAPE_BEGINNING = re.compile(r"\\(?:[0-7]{1,2}|x[0-9a-fA-F]?|u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|N(?:\{[^}]{0,80})?)?")
TEXT_END = "\0"  # stands for the end of the answer
OCTAL = re.compile(r"\\[0-7]{1,2}")


class PythonString:
    """Follows one literal, from after its first quote on.

    Many models, and their templates, do not escape the quotes and line breaks of a string. So a quote ends a string
    only if `is_end` agrees (True, False, or None while it needs more text), and after the first quote or line break
    that is part of the text, backslashes are plain characters.
    """

    def __init__(self, quote: str, is_end: Callable[[str], bool | None], *, is_raw: bool = False) -> None:
        self._quote = quote
        self._is_end = is_end
        self._is_raw = is_raw
        self._is_triple = False
        self._is_empty = True
        self._held = ""  # an escape, or a quote that may be the last and the text after it

    def take(self, text: str) -> tuple[str, str | None]:
        """JSON text, and the text after the string once it has ended."""
        written: list[str] = []
        while text:
            char, text = text[0], text[1:]
            if self._held.startswith("\\"):
                part, again = self._take_escape(char)
            elif self._held:
                part, again, is_over = self._take_quote(char)
                if is_over:
                    return "".join([*written, part]), again + text
            elif char == self._quote or (char == "\\" and not self._is_raw):
                self._held, part, again = char, "", ""
            else:
                self._is_raw = self._is_raw or (char == "\n" and not self._is_triple)
                self._is_empty = False
                part, again = escaped(char), ""
            written.append(part)
            text = again + text
        return "".join(written), None

    def finish(self) -> str | None:
        """The text after the string, if the string has ended where no text follows."""
        is_over = self._held[:1] == self._quote and not self._is_triple and self._is_end(self._held[1:] + TEXT_END)
        return self._held[1:] if is_over else None

    def _take_escape(self, char: str) -> tuple[str, str]:
        """JSON text, and text to take again."""
        self._is_empty = False
        escape = self._held + char
        if ESCAPE.fullmatch(escape):
            self._held = ""
            return _decoded(escape), ""
        if ESCAPE_BEGINNING.fullmatch(escape):
            self._held = escape
            return "", ""
        held, self._held = self._held, ""
        return (_decoded(held) if OCTAL.fullmatch(held) else escaped(held)), char

    def _take_quote(self, char: str) -> tuple[str, str, bool]:
        """JSON text, text to take again, and True if the string is over."""
        self._held += char
        if self._is_triple:
            if self._held == self._quote * 3:
                return "", "", True
            if char == self._quote:
                return "", "", False
            return self._plain(self._held[:-1], char)
        if self._is_empty and self._held == self._quote * 2:  # the third in a row
            self._held, self._is_triple, self._is_empty = "", True, False
            return "", "", False
        is_end = self._is_end(self._held[1:])
        if is_end is None:
            return "", "", False
        if is_end:
            return "", self._held[1:], True
        self._is_raw = True
        return self._plain(self._quote, self._held[1:])

    def _plain(self, text: str, again: str) -> tuple[str, str, bool]:
        self._held, self._is_empty = "", False
        return escaped(text), again, False


def escaped(text: str) -> str:
    """The text inside a JSON string."""
    is_broken = any("\ud800" <= char <= "\udfff" for char in text)  # half of a character beyond 16 bits
    return json.dumps(text, ensure_ascii=is_broken)[1:-1]


def _decoded(escape: str) -> str:
    try:
        return escaped(codecs.decode(escape, "unicode_escape"))
    except UnicodeDecodeError:  # no character has this name or number
        return escaped(escape)
