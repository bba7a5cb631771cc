"""Parses one JSON value while it is being written, and emits it as strict JSON.

What is meant beyond doubt is repaired: Python's True, False, None and strings in single quotes, NaN and Infinity (null,
as JavaScript writes them), commas before a closing bracket, comments, control characters in a string, and a backslash
that escapes nothing. Any other fault ends the value as bad.
"""

import json
import re
import string
from types import MappingProxyType
from typing import Literal

Took = Literal["more", "last", "beyond", "bad"]
Wanted = Literal["value", "value or end", "key or end", "colon", "comma or end"]

CLOSERS = MappingProxyType({"{": "}", "[": "]"})
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
WORDS = MappingProxyType(
    {word: word for word in ("true", "false", "null")}
    | {"True": "true", "False": "false"}
    | dict.fromkeys(("None", *NO_NUMBERS), "null")
)
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
IN_WORD = frozenset(string.ascii_letters + string.digits + "+-.")
QUOTES = frozenset("\"'")
SPACE = frozenset(" \t\r\n")
ESCAPED = frozenset('"\\/bfnrt')


class JsonValue:
    """Follows one value character by character. A number, word or escape is emitted once it is complete."""

    def __init__(self) -> None:
        self._closers: list[str] = []  # for the open brackets, innermost last
        self._wants: Wanted = "value"
        self._quote = ""  # of the open string
        self._escape = ""
        self._word = ""
        self._comment: Literal["", "/", "line", "block", "block*"] = ""
        self._comma = ""  # with the white space after it; left out before a closing bracket

    def take(self, char: str) -> tuple[Took, str]:
        """State and text. `more`: the value goes on; `last`: it ends; `beyond`: it ended before; `bad`: not JSON."""
        comma, self._comma = self._comma, ""
        took, written = self._take(char)
        if comma and (not written or written in SPACE):
            self._comma = comma + written
            return took, ""
        is_closed = written == char and char in CLOSERS.values() and not self._quote
        return took, comma[1 if is_closed else 0 :] + written

    def _take(self, char: str) -> tuple[Took, str]:
        if self._quote:
            return self._take_in_string(char)
        if self._comment:
            return self._take_in_comment(char)
        if char in IN_WORD and (self._word or self._wants.startswith("value")):
            self._word += char
            return "more", ""
        if not self._word:
            return self._take_mark(char)
        word, self._word = self._word, ""
        written = WORDS.get(word) or (word if NUMBER.fullmatch(word) else "")
        if not written:
            return "bad", ""
        if not self._closers:
            return "beyond", written
        self._wants = "comma or end"
        took, mark = self._take_mark(char)
        return took, written + mark

    def _take_mark(self, char: str) -> tuple[Took, str]:
        if char in SPACE:
            return "more", char
        if char in QUOTES and self._wants not in ("colon", "comma or end"):
            self._quote = char
            return "more", '"'
        if char in CLOSERS and self._wants.startswith("value"):
            self._closers.append(CLOSERS[char])
            self._wants = "key or end" if char == "{" else "value or end"
        elif self._closers and char == self._closers[-1] and self._wants.endswith("end"):
            self._closers.pop()
            self._wants = "comma or end"
            return "more" if self._closers else "last", char
        elif char == "," and self._wants == "comma or end":
            self._wants = "key or end" if self._closers[-1] == "}" else "value or end"
            self._comma = char
            return "more", ""
        elif char == ":" and self._wants == "colon":
            self._wants = "value"
        elif char in "/#" and self._closers:
            self._comment = "line" if char == "#" else "/"
            return "more", ""
        else:
            return "bad", ""
        return "more", char

    def _take_in_comment(self, char: str) -> tuple[Took, str]:
        if self._comment == "/":
            self._comment = "line" if char == "/" else "block"
            return "more" if char in "/*" else "bad", ""
        if self._comment == "line":
            self._comment = "" if char == "\n" else "line"
        elif self._comment == "block*" and char == "/":
            self._comment = ""
        else:
            self._comment = "block*" if char == "*" else "block"
        return "more", ""

    def _take_in_string(self, char: str) -> tuple[Took, str]:
        if self._escape:
            return self._take_escaped(char)
        if char == "\\":
            self._escape = char
            return "more", ""
        if char != self._quote:
            return "more", json.dumps(char)[1:-1] if char < " " or char == '"' else char
        self._quote = ""
        self._wants = "colon" if self._wants.startswith("key") else "comma or end"
        return "more" if self._closers else "last", '"'

    def _take_escaped(self, char: str) -> tuple[Took, str]:
        self._escape += char
        if self._escape[1] == "u":
            if len(self._escape) > 2 and char not in string.hexdigits:
                return "bad", ""
            if len(self._escape) < 6:
                return "more", ""
        written, self._escape = self._escape, ""
        if written[1] == self._quote == "'":
            return "more", "'"
        if written[1] in ESCAPED or len(written) == 6:
            return "more", written
        return "more", json.dumps(written, ensure_ascii=False)[1:-1]


def strict_json(text: str) -> str | None:
    """The text as one strict JSON value; None if it is not exactly one value, or is likelier to be plain text."""
    value, text = JsonValue(), text.strip()
    if text.startswith("'") or text in NO_NUMBERS:
        return None
    written: list[str] = []
    for position, char in enumerate(text + " "):
        took, part = value.take(char)
        written.append(part)
        if took != "more":
            is_all = (took == "last" and position == len(text) - 1) or (took == "beyond" and position == len(text))
            return "".join(written) if is_all else None
    return None
