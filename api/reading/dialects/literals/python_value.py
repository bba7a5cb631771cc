"""Parses one value of Python (or JSON) while it is being written, and emits it as strict JSON."""

import json
import math
import re
import string
from collections.abc import Callable

from api.reading.dialects.json_value import NUMBER, SPACE, WORDS, Took, Wanted
from api.reading.dialects.literals.python_string import PythonString

CLOSERS = (("{", "}"), ("[", "]"), ("(", ")"))
OPENERS = "{[("
MAX_AHEAD = 300  # characters after a quote that are looked at to see if it is the last one
QUOTES = "\"'"
IN_WORD = frozenset(string.ascii_letters + string.digits + "+-._")
PREFIXES = frozenset({"r", "R", "u", "U", "f", "F"})
INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)")
DECIMAL = re.compile(r"[+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?")


class PythonValue:
    """Follows one value character by character. A number, word or escape is emitted once it is complete.

    `is_end`: see PythonString; for a string that is the whole value. Inside brackets a quote ends a string if what
    may come next in the bracket follows it.
    """

    def __init__(self, is_end: Callable[[str], bool | None]) -> None:
        self._is_end = is_end
        self._closers: list[str] = []  # for the open brackets, innermost last
        self._wants: Wanted = "value"
        self._has_items = False  # the innermost bracket is not empty
        self._string: PythonString | None = None
        self._word = ""
        self.rest = ""  # the text after the value, once it is `beyond`

    def take(self, char: str) -> tuple[Took, str]:
        """State and text. `more`: the value goes on; `last`: it ends; `beyond`: it ended before; `bad`: no value."""
        written, text = [], char
        while text:
            char, text = text[0], text[1:]
            took, part, again = self._step(char)
            written.append(part)
            text = again + text
            if took != "more":
                self.rest = text
                return took, "".join(written)
        return "more", "".join(written)

    def finish(self) -> tuple[Took, str]:
        """As `take`, where no text follows."""
        rest = self._string.finish() if self._string and not self._closers else None
        if rest is None:
            return "more", ""
        self.rest = rest
        return "beyond", '"'

    def _step(self, char: str) -> tuple[Took, str, str]:
        """State, text, and text to take again."""
        if self._string:
            text, rest = self._string.take(char)
            if rest is None:
                return "more", text, ""
            self._string = None
            self._wants = "colon" if self._wants.startswith("key") else "comma or end"
            return ("more" if self._closers else "beyond"), text + '"', rest
        if char in IN_WORD and (self._word or self._wants.startswith("value")):
            self._word += char
            return "more", "", ""
        if self._word in PREFIXES and char in QUOTES:
            is_raw, self._word = self._word in "rR", ""
            return self._begin_string(char, is_raw=is_raw)
        if self._word:
            word, self._word = _as_json(self._word), ""
            if word is None:
                return "bad", "", ""
            text = self._comma() + word
            self._wants = "comma or end"
            return ("more" if self._closers else "beyond"), text, char
        return self._take_mark(char)

    def _take_mark(self, char: str) -> tuple[Took, str, str]:
        wants = self._wants
        if char in SPACE:
            return "more", "", ""
        if char in QUOTES and wants.startswith(("value", "key")):
            return self._begin_string(char, is_raw=False)
        if char in OPENERS and wants.startswith("value"):
            comma = self._comma()
            self._closers.append(dict(CLOSERS)[char])
            self._wants, self._has_items = ("key or end" if char == "{" else "value or end"), False
            return "more", comma + ("{" if char == "{" else "["), ""
        if self._closers and char == self._closers[-1] and wants.endswith("end"):
            self._closers.pop()
            self._wants, self._has_items = "comma or end", True
            return ("more" if self._closers else "last"), "}" if char == "}" else "]", ""
        if char == "," and wants == "comma or end":
            self._wants = "key or end" if self._closers[-1] == "}" else "value or end"
            return "more", "", ""
        if char == ":" and wants == "colon":
            self._wants = "value"
            return "more", ": ", ""
        return "bad", "", ""

    def _begin_string(self, quote: str, *, is_raw: bool) -> tuple[Took, str, str]:
        if not self._closers:
            is_end = self._is_end
        elif self._wants.startswith("key"):
            is_end = _followed_by(":")
        else:
            is_end = _followed_by("," + self._closers[-1])
        self._string = PythonString(quote, is_end, is_raw=is_raw)
        return "more", self._comma() + '"', ""

    def _comma(self) -> str:
        """What stands before a key, or before an item of a list, unless it is the first one."""
        if not self._closers or self._wants == "value":
            return ""
        comma = ", " if self._has_items else ""
        self._has_items = True
        return comma


def _followed_by(marks: str) -> Callable[[str], bool | None]:
    def is_end(text: str) -> bool | None:
        begun = text.lstrip()
        return begun[0] in marks if begun else None if len(text) < MAX_AHEAD else False

    return is_end


def _as_json(word: str) -> str | None:
    """A word or number as JSON; None if it is neither."""
    if word in WORDS:
        return WORDS[word]
    if NUMBER.fullmatch(word):
        return word
    try:
        if INTEGER.fullmatch(word):
            return str(int(word, 0))
        number = float(word) if DECIMAL.fullmatch(word) else math.inf
    except ValueError:
        return None
    return json.dumps(number) if math.isfinite(number) else None
