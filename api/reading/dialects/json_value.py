"""Parses one JSON value while it is being written, and emits it as strict JSON.

Unambiguous faults are repaired: Python's True, False and None, control characters in a string, and a backslash that
escapes nothing. Any other fault ends the value as bad.
"""

import json
import re
import string
from types import MappingProxyType
from typing import Literal

Took = Literal["more", "last", "beyond", "bad"]
Wanted = Literal["value", "value or end", "key", "key or end", "colon", "comma or end"]

CLOSERS = MappingProxyType({"{": "}", "[": "]"})
WORDS = MappingProxyType(
    {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
)
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
IN_WORD = frozenset(string.ascii_letters + string.digits + "+-.")
SPACE = frozenset(" \t\r\n")
ESCAPED = frozenset('"\\/bfnrt')


class JsonValue:
    """Follows one value character by character. A number, word or escape is emitted once it is complete."""

    def __init__(self) -> None:
        self._closers: list[str] = []  # for the open brackets, innermost last
        self._wants: Wanted = "value"
        self._in_string = False
        self._escape = ""
        self._word = ""

    def take(self, char: str) -> tuple[Took, str]:
        """State and text. `more`: the value goes on; `last`: it ends; `beyond`: it ended before; `bad`: not JSON."""
        if self._in_string:
            return self._take_in_string(char)
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
        if char == '"' and self._wants not in ("colon", "comma or end"):
            self._in_string = True
        elif char in CLOSERS and self._wants.startswith("value"):
            self._closers.append(CLOSERS[char])
            self._wants = "key or end" if char == "{" else "value or end"
        elif self._closers and char == self._closers[-1] and self._wants.endswith("end"):
            self._closers.pop()
            self._wants = "comma or end"
            return "more" if self._closers else "last", char
        elif char == "," and self._wants == "comma or end":
            self._wants = "key" if self._closers[-1] == "}" else "value"
        elif char == ":" and self._wants == "colon":
            self._wants = "value"
        else:
            return "bad", ""
        return "more", char

    def _take_in_string(self, char: str) -> tuple[Took, str]:
        if self._escape:
            return self._take_escaped(char)
        if char == "\\":
            self._escape = char
            return "more", ""
        if char != '"':
            return "more", json.dumps(char)[1:-1] if char < " " else char
        self._in_string = False
        self._wants = "colon" if self._wants.startswith("key") else "comma or end"
        return "more" if self._closers else "last", char

    def _take_escaped(self, char: str) -> tuple[Took, str]:
        self._escape += char
        if self._escape[1] == "u":
            if len(self._escape) > 2 and char not in string.hexdigits:
                return "bad", ""
            if len(self._escape) < 6:
                return "more", ""
        written, self._escape = self._escape, ""
        if written[1] in ESCAPED or len(written) == 6:
            return "more", written
        return "more", json.dumps(written, ensure_ascii=False)[1:-1]


def strict_json(text: str) -> str | None:
    """The text as one strict JSON value; None if it is not exactly one value."""
    value, text = JsonValue(), text.strip()
    written: list[str] = []
    for position, char in enumerate(text + " "):
        took, part = value.take(char)
        written.append(part)
        if took != "more":
            is_all = (took == "last" and position == len(text) - 1) or (took == "beyond" and position == len(text))
            return "".join(written) if is_all else None
    return None
