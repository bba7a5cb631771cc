"""Calls of custom tools: the arguments of the function that stands for one -> its input, a plain text, piece by piece.

The model writes `{"input": "..."}`. The first member is the input, whatever its name, if it is a string.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from api.reading.pieces import Piece, ToolCallArguments, ToolCallEnd, ToolCallStart

OPENING = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"')
HALF = r"\\u[dD][89abAB][0-9a-fA-F]{2}"  # the first of two escapes that spell one character together
UNIT = r"\\u[0-9a-fA-F]{4}"
SECOND = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# Characters and whole escapes, up to one that may be unfinished.
WHOLE = re.compile(rf'(?:[^"\\]|\\[^u]|(?!{HALF}){UNIT}|{HALF}(?:{SECOND}|(?=[^\\]|\\[^u]|(?!{SECOND}){UNIT})))*')


class CustomInputs:
    """Rewrites the calls of the named tools within one choice's pieces."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._input: InputText | None = None  # of the newest call, if it is a custom tool's

    def read(self, pieces: Iterable[Piece]) -> list[Piece]:
        result: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, ToolCallStart):
                self._input = InputText() if piece.name in self._names else None
                result.append(replace(piece, is_custom=self._input is not None))
            elif self._input is None or not isinstance(piece, ToolCallArguments | ToolCallEnd):
                result.append(piece)
            elif isinstance(piece, ToolCallArguments):
                self._show(self._input.feed(piece.text), piece.index, result)
            else:
                self._show(self._input.finish(), piece.index, result)
                result.append(piece)
        return result

    def _show(self, text: str, index: int, result: list[Piece]) -> None:
        if text:
            result.append(ToolCallArguments(index, text, is_custom=True))


class InputText:
    """The text in one call's arguments. Feed it the JSON of the arguments."""

    def __init__(self) -> None:
        self._held = ""
        self._has_begun = False
        self._is_over = False

    def feed(self, arguments: str) -> str:
        if self._is_over:
            return ""
        self._held += arguments
        if not self._has_begun:
            opening = OPENING.match(self._held)
            if opening is None:
                return ""
            self._has_begun = True
            self._held = self._held[opening.end() :]
        whole = WHOLE.match(self._held)
        assert whole is not None
        self._held = self._held[whole.end() :]
        self._is_over = self._held.startswith('"')
        return _unescaped(whole[0])

    def finish(self) -> str:
        """The input that was held back, when the arguments are complete: they did not begin with a string."""
        return "" if self._has_begun else _first_text(self._held)


def _first_text(arguments: str) -> str:
    """The first string among the arguments; else their JSON."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):  # too long a number, or too deep
        return arguments
    members = value.values() if isinstance(value, dict) else ()
    return next((member for member in members if isinstance(member, str)), arguments if value else "")


def _unescaped(text: str) -> str:
    """The text of a JSON string's inside. Half a character becomes U+FFFD."""
    decoded = str(json.loads(f'"{text}"', strict=False))
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
