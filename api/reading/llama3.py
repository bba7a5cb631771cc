"""Llama 3: an answer that is `{"name": …, "parameters": {…}}`, sometimes after `<|python_tag|>`; several by `;`."""

from api.reading.json_text import CallObject
from api.reading.pieces import CallPieces, Piece

OPENING = "<|python_tag|>"
BETWEEN = " \t\r\n;,"


class Llama3Block:
    """From the first brace on. Something else than another brace ends it."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._call = CallObject(calls, before, needs_arguments=True)

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        """Pieces, and the text that follows the block once it has ended."""
        pieces: list[Piece] = []
        for position, char in enumerate(text):
            if self._call.is_done and not self._call.is_spoilt:
                if char in BETWEEN:
                    continue
                if char != "{":
                    return pieces, text[position:]
                self._call = CallObject(self._calls, needs_arguments=True)
            if not self._call.is_spoilt:
                pieces += self._call.take(char)
            if self._call.is_broken:
                return pieces, text[position + 1 :]
        return pieces, None

    def finish(self) -> list[Piece]:
        return self._call.finish()
