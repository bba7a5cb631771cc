"""Turns the text of an answer into content and tool calls, in the dialect that the model writes.

White space before a call is left out, and text that may begin a call is held back. Text that proves not to be a call
comes out unchanged, unless the answer was cut off before that was certain.
"""

import re

from api.reading.dialects.dialect import BlockParser, ToolDialect
from api.reading.parameters import NO_KINDS, Kinds
from api.reading.pieces import Blanks, CallPieces, Content, Piece, merged, num_held

NOTHING = "(?!)"  # matches no text


class ToolCallParser:
    """Feed it an answer's text. `id_seed`: the job and choice. `must_call`: the answer is calls only."""

    def __init__(self, dialect: ToolDialect, id_seed: str, kinds: Kinds = NO_KINDS, *, must_call: bool = False) -> None:
        self._dialect = dialect
        self._opening = re.compile("|".join(map(re.escape, dialect.openings)) or NOTHING)
        self._calls = CallPieces(id_seed, kinds, short_ids=dialect.has_short_ids)
        self._must_call = must_call
        self._block: BlockParser | None = None
        self._is_marked = False  # the block began with the dialect's opening marker
        self._blanks = Blanks()
        self._held = ""  # white space, and text that may begin a call
        self._has_text = False

    @property
    def has_called(self) -> bool:
        """There are calls, and all of them are complete."""
        return 0 < self._calls.num_started == self._calls.num_ended

    def feed(self, text: str) -> list[Piece]:
        if self._block is None and self._blanks.hold(text):
            return []
        return merged(self._read(self._blanks.before(text)))

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces held back, when no text follows. A call that was cut off (`is_cut`) does not become content."""
        pieces = self._read(self._blanks.before(""))
        block, self._block = self._block, None
        held, self._held = self._held, ""
        pieces += block.finish() if block and not (is_cut and (self._is_marked or self._must_call)) else []
        if (held.strip() or not self._calls.num_started) and not (is_cut and self._must_call):
            pieces.append(Content(held))
        return merged(pieces)

    def _read(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        rest: str | None = text
        while rest:
            rest = self._read_block(rest, pieces) if self._block else self._read_text(rest, pieces)
        return pieces

    def _read_block(self, text: str, pieces: list[Piece]) -> str | None:
        assert self._block is not None
        more, rest = self._block.read(text)
        pieces += more
        if rest is not None:
            self._block = None
            self._has_text = True
        return rest

    def _read_text(self, text: str, pieces: list[Piece]) -> str | None:
        """Emit what is certainly content. Returns the text after an opening marker, if there is one."""
        self._held += text
        begun = self._held.lstrip()
        if begun and begun[0] in self._dialect.bare and not self._has_text:
            return self._open(self._held[: len(self._held) - len(begun)], begun, is_marked=False)
        opening = self._opening.search(self._held)
        content = self._held[: opening.start()] if opening else self._held
        said = content[: len(content) - (0 if opening else num_held(content, self._dialect.openings))].rstrip()
        if said:
            pieces.append(Content(said))
            self._has_text = True
        if opening:
            return self._open(content[len(said) :] + opening[0], self._held[opening.end() :], is_marked=True)
        self._held = self._held[len(said) :]
        return None

    def _open(self, before: str, rest: str, *, is_marked: bool) -> str:
        self._held = ""
        self._is_marked = is_marked
        self._block = self._dialect.new_block(self._calls, before)
        return rest
