"""Token ids to text, one token at a time, in whole characters; the parts join to the decoder's text of all tokens.

tokenizers' DecodeStream is not used: it holds back real U+FFFD, raises on invalid UTF-8, and grows with both.
"""

from collections.abc import Iterable

from common.model.spelling import REPLACEMENT, Spelling

MAX_SILENT = 24  # tokens without text that are kept as context


class Detokenizer:
    """Holds back the bytes of an unfinished character; the decoder sees whole characters only.

    The decoder reads a short window that begins with tokens already shown (at first `context`, the end of the prompt),
    because decoders treat the first token of a text specially and drop its leading space. Every push costs the same.

    Characters of a run of byte tokens (`<0xE2>`) stay shown when the run proves to be invalid UTF-8; the decoder would
    replace the whole run.
    """

    def __init__(self, spelling: Spelling, context: Iterable[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._spelling = spelling
        self._skipped = spelling.special_names if skip_special_tokens else frozenset()
        self._held = b""  # of an unfinished character
        self._window: list[str] = []  # names of tokens
        self._num_settled = 0  # leading tokens of the window that are context
        self._num_shown = 0  # characters of the window's text that were returned
        for token_id in context:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that this token makes certain."""
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

    def flush(self) -> str:
        """What stands at the end of the text for a character that was not finished: one U+FFFD, however many bytes."""
        cut, self._held = REPLACEMENT if self._held else "", b""
        return cut

    def _decode(self, names: list[str]) -> str:
        """The decoder's text of these tokens in their context."""
        self._window += names
        text = self._spelling.decoded(self._window)
        shown = text[self._num_shown :]
        self._num_shown = max(self._num_shown, len(text))
        self._settle()
        return shown

    def _settle(self) -> None:
        """Shorten the window to its newest tokens that have text, as context for the next ones."""
        newest = self._window[self._num_settled :]
        num_characters = len(self._spelling.decoded(newest))
        if num_characters or len(newest) > MAX_SILENT:
            self._window, self._num_settled, self._num_shown = newest, len(newest), num_characters
