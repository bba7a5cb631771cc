"""Parses an object whose strings stand between two equal markers, while it is being written, and emits it as JSON.

`{key:<|"|>text<|"|>,n:5,ok:true,list:[1,2],inner:{a:null}}`. Strings in quotes and bare words are read too, and where
the schema is clear, a number without markers as the string, and a string as the number, that it was meant to be.
"""

import json
from collections.abc import Callable
from typing import Literal

from api.reading.dialects.json_value import CLOSERS, NUMBER, SPACE, WORDS, JsonValue, Took, strict_json
from api.reading.parameters import ParameterKind
from api.reading.pieces import num_held

Wants = Literal["key", "colon", "value", "comma"]


class MarkedObject:
    """Follows one object character by character, from after its opening brace to the closing one."""

    def __init__(self, mark: str, kind_of: Callable[[str], ParameterKind]) -> None:
        self._mark = mark
        self._kind_of = kind_of  # of a member of the object itself
        self._kind: ParameterKind = "mixed"
        self._text: str | None = None  # of a string that may stand for another value
        self._closers = ["}"]  # of the open brackets, innermost last
        self._wants: Wants = "key"
        self._has_members = False  # the innermost bracket is not empty
        self._in_string = False
        self._quoted: JsonValue | None = None  # a string in quotes
        self._held = ""  # what may be the marker
        self._word = ""  # a key or value without marks

    def take(self, char: str) -> tuple[Took, str]:
        """State and JSON text. `more`: the object goes on; `last`: it ends; `bad`: it is none."""
        if self._in_string:
            return "more", self._take_in_string(char)
        if self._quoted:
            return self._take_quoted(char)
        if not self._word and (self._held or char == self._mark[0]) and self._wants in ("key", "value"):
            self._held += char
            if self._held == self._mark:
                self._held, self._in_string = "", True
                self._text = "" if self._kind == "json" else None
                return "more", self._comma() + ('"' if self._text is None else "")
            if self._mark.startswith(self._held):
                return "more", ""
            self._word, self._held = self._held[:-1], ""
        if self._word or (char not in SPACE and char not in '{}[],:"' and self._wants in ("key", "value")):
            return self._take_word(char)
        return self._take_mark(char)

    def _take_in_string(self, char: str) -> str:
        self._held += char
        is_over = self._held.endswith(self._mark)
        num_text = len(self._held) - (len(self._mark) if is_over else num_held(self._held, [self._mark]))
        text, self._held = self._held[:num_text], "" if is_over else self._held[num_text:]
        self._in_string = not is_over
        if self._text is None:
            return _escaped(text) + (self._end_text() if is_over else "")
        self._text += text
        if not is_over:
            return ""
        self._end_text()
        return strict_json(self._text) or f'"{_escaped(self._text)}"'

    def _take_quoted(self, char: str) -> tuple[Took, str]:
        assert self._quoted is not None
        took, text = self._quoted.take(char)
        if took != "last":
            return took, text
        self._quoted = None
        return "more", text[:-1] + self._end_text()

    def _end_text(self) -> str:
        """The quote at the end of a key or string."""
        self._wants = "colon" if self._wants == "key" else "comma"
        self._kind = "mixed"
        return '"'

    def _take_word(self, char: str) -> tuple[Took, str]:
        """A bare key ends at its colon, a bare value at a comma or bracket."""
        if self._wants == "key":
            if char != ":":
                self._word += char
                return ("bad" if char in "{}[],\n" else "more"), ""
            key = self._word.strip()
            written = f"{self._comma()}{json.dumps(key, ensure_ascii=False)}: "
            self._kind = self._kind_of(key) if len(self._closers) == 1 else "mixed"
            self._word, self._wants = "", "value"
            return "more", written
        if char not in ",]}":
            self._word += char
            return "more", ""
        word, self._word = self._word.strip(), ""
        is_value = self._kind != "text" and (word in WORDS or NUMBER.fullmatch(word))
        written = WORDS.get(word, word) if is_value else json.dumps(word, ensure_ascii=False)
        comma = self._comma()
        self._wants, self._kind = "comma", "mixed"
        took, text = self._take_mark(char)
        return took, comma + written + text

    def _take_mark(self, char: str) -> tuple[Took, str]:
        if char in SPACE:
            return "more", ""
        wants = self._wants
        if char == '"' and wants in ("key", "value"):
            comma, self._quoted = self._comma(), JsonValue()
            return "more", comma + self._quoted.take(char)[1]
        if char in CLOSERS and wants == "value":
            comma = self._comma()
            self._closers.append(CLOSERS[char])
            self._kind = "mixed"
            self._wants, self._has_members = ("key" if char == "{" else "value"), False
            return "more", comma + char
        if char == self._closers[-1] and (wants in ("comma", "key") or (wants == "value" and char == "]")):
            self._closers.pop()
            self._wants, self._has_members = "comma", True
            return ("more" if self._closers else "last"), char
        if char == "," and wants == "comma":
            self._wants = "key" if self._closers[-1] == "}" else "value"
            return "more", ""
        if char == ":" and wants == "colon":
            self._wants = "value"
            return "more", ": "
        return "bad", ""

    def _comma(self) -> str:
        """What stands before a key, or before an item of a list, unless it is the first one."""
        if self._wants == "value" and self._closers[-1] == "}":
            return ""
        comma = ", " if self._has_members else ""
        self._has_members = True
        return comma


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
