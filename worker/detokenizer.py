"""Token ids to text, one token at a time, never showing half a character."""

from collections.abc import Iterable

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
MAX_PROVISIONAL = 3  # an unfinished UTF-8 character is at most three bytes, hence three replacement characters
MAX_WINDOW = 24  # tokens that never settle (random bytes) must not make every push slower than the last


class Detokenizer:
    """Decodes a sliding window, so that a push costs the same after ten tokens and after ten thousand.

    The window starts with tokens whose text is out already (at first: `context`, the end of the prompt): decoders treat
    the first token of a text specially, dropping its leading space, and these take that on themselves.
    """

    def __init__(self, tokenizer: Tokenizer, context: Iterable[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = list(context)
        self._num_settled = len(self._window)  # tokens at its start whose text is out in full
        self._num_shown = len(self._decode())  # characters of its text that are out

    def push(self, token_id: int) -> str:
        """The characters that became certain with this token."""
        self._window.append(token_id)
        text = self._decode()
        is_overlong = len(self._window) - self._num_settled > MAX_WINDOW
        num_certain = len(text) if is_overlong else len(text) - num_provisional(text)
        shown = text[self._num_shown : num_certain]
        self._num_shown = max(self._num_shown, num_certain)
        if is_overlong or (shown and num_certain == len(text)):
            self._settle()
        return shown

    def flush(self) -> str:
        """The characters held back, as they are."""
        shown = self._decode()[self._num_shown :]
        self._num_shown += len(shown)
        return shown

    def _settle(self) -> None:
        """Keep the tokens since the last settled point as context for the next ones."""
        self._window = self._window[self._num_settled :]
        self._num_settled = len(self._window)
        self._num_shown = len(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=self._skip_special_tokens)


def num_provisional(text: str) -> int:
    """Replacement characters at the end that a later token may still complete."""
    return min(MAX_PROVISIONAL, len(text) - len(text.rstrip(REPLACEMENT)))
