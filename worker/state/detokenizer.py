"""Token ids to text, one token at a time: whole characters only, and together what the decoder makes of all tokens.

tokenizers' DecodeStream is not used: it keeps back real U+FFFD, raises on bytes that are no UTF-8, and grows with both.
"""

from collections.abc import Iterable

from common.model.spelling import REPLACEMENT, Spelling

MAX_SILENT = 24  # tokens without text that are kept as context for the next ones


class Detokenizer:
    """The bytes of an unfinished character are kept back; the decoder sees whole characters only.

    It reads a short window that begins with tokens whose text is out (at first: `context`, the end of the prompt),
    because decoders treat the first token of a text specially, dropping its leading space. Every push costs the same.

    In a row of byte tokens (`<0xE2>`) that turns out to be no UTF-8, characters that are out stay; the decoder would
    take back the whole row.
    """

    def __init__(self, spelling: Spelling, context: Iterable[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._spelling = spelling
        self._skipped = spelling.special_names if skip_special_tokens else frozenset()
        self._held = b""  # of a character that is not whole yet
        self._window: list[str] = []  # names of tokens
        self._num_settled = 0  # of them are context
        self._num_shown = 0  # characters of its text that are out
        for token_id in context:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token."""
        name = self._spelling.name(token_id)
        if name is None or name in self._skipped:
            return ""
        raw = self._spelling.bytes_of(name)
        if raw is None:
            broken, self._held = REPLACEMENT * len(self._held), b""
            return self._decode([*self._spelling.names_of(broken), name])
        text, self._held = self._spelling.characters(self._held + raw)
        if not text or self._spelling.has_only_bytes:
            return text
        return self._decode(self._spelling.names_of(text))

    def _decode(self, names: list[str]) -> str:
        """The decoder's text of these tokens where they stand."""
        self._window += names
        text = self._spelling.decoded(self._window)
        shown = text[self._num_shown :]
        self._num_shown = max(self._num_shown, len(text))
        self._settle()
        return shown

    def _settle(self) -> None:
        """Keep the newest tokens as context for the next ones: those since the last that left some text."""
        newest = self._window[self._num_settled :]
        num_characters = len(self._spelling.decoded(newest))
        if num_characters or len(newest) > MAX_SILENT:
            self._window, self._num_settled, self._num_shown = newest, len(newest), num_characters
