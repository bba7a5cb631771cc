"""Hermes and Qwen: `<tool_call>` + `{"name": …, "arguments": {…}}` + `</tool_call>`, once per call."""

from api.reading.json_text import CallObject
from api.reading.pieces import CallPieces, Piece, num_held

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
STRAY = " \t\r\n}"  # a bracket too many is a common slip


class HermesBlock:
    """From after `<tool_call>` to `</tool_call>`."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._call = CallObject(calls, before)
        self._tail = ""

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        """Pieces, and the text that follows the block once it has ended."""
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call.is_done:
                return pieces, self._end(text[position:])
            pieces += self._call.take(char)
            if self._call.is_broken:
                return pieces, text[position + 1 :]
        return pieces, None

    def finish(self) -> list[Piece]:
        return self._call.finish()

    def _end(self, text: str) -> str | None:
        """What follows the closing marker; a call without one ends where something else begins."""
        self._tail += text
        if self._call.is_spoilt:
            _, closing, rest = self._tail.partition(CLOSING)
            self._tail = self._tail[len(self._tail) - num_held(self._tail, [CLOSING]) :]
            return rest if closing else None
        self._tail = self._tail.lstrip(STRAY)
        if self._tail.startswith(CLOSING):
            return self._tail[len(CLOSING) :]
        return None if CLOSING.startswith(self._tail) else self._tail
