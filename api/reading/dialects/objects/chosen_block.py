"""A block whose first character tells which of two forms follows."""

from collections.abc import Callable

from api.reading.dialects.dialect import BlockParser
from api.reading.pieces import CallPieces, Content, Piece


class ChosenBlock:
    """Leaves out white space before the first character; the text goes to the block that `choose` makes of it."""

    def __init__(self, calls: CallPieces, before: str, choose: Callable[[str, CallPieces, str], BlockParser]) -> None:
        self._calls = calls
        self._before = before
        self._choose = choose  # (first character, calls, text before it) -> the block
        self._inner: BlockParser | None = None

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        if self._inner is None:
            begun = text.lstrip()
            self._before += text[: len(text) - len(begun)]
            if not begun:
                return [], None
            self._inner = self._choose(begun[0], self._calls, self._before)
            text = begun
        return self._inner.read(text)

    def finish(self) -> list[Piece]:
        return self._inner.finish() if self._inner else [Content(self._before)]
