"""Texts -> token ids, by one tokenizer.json. Long texts are encoded in a thread of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from api.process.offload import in_native_thread

LONG_TEXT = 4096  # characters; encoding fewer takes less time than waking a thread
LONG_TOKEN = 64  # characters that one token may stand for at least: some normalizers shorten texts
PIECE = 64 * 1024  # characters
BATCH = 256  # texts; converting the result of one batch holds the GIL


@dataclass(frozen=True, slots=True)
class Encoded:
    """The ids of each text, and their total number. No ids if that number is over the limit."""

    ids: list[list[int]]
    num_tokens: int
    is_least: bool = False  # num_tokens is a lower bound, from the length of the texts


class TextEncoder:
    """With `is_plain`, the names of special tokens are ordinary text."""

    def __init__(self, source: str) -> None:
        self.tokenizer = _untouched(source)
        self._plain = _untouched(source)
        self._plain.encode_special_tokens = True
        self._longest = max(LONG_TOKEN, *map(len, self.tokenizer.get_vocab()))

    def least_tokens(self, num_characters: int) -> int:
        """Lower bound on the tokens of a text of this length."""
        return -(-num_characters // self._longest)

    def encode(
        self, texts: Sequence[str], most: int, *, add_special_tokens: bool = False, is_plain: bool = False
    ) -> Encoded:
        """No ids if the texts have more than `most` tokens together."""
        num_characters = sum(map(len, texts))
        tokenizer = self._plain if is_plain else self.tokenizer
        if num_characters <= LONG_TEXT:
            return _collected([tokenizer.encode(text, add_special_tokens=add_special_tokens) for text in texts], most)
        if (least := self.least_tokens(num_characters)) > most:
            return Encoded([], least, is_least=True)
        if (least := in_native_thread(_counted_to, tokenizer, texts, 2 * most + 1) // 2) > most:
            return Encoded([], least, is_least=True)
        return in_native_thread(_encode_in_batches, tokenizer, texts, most, add_special_tokens)


def _counted_to(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> int:
    """Count the tokens of long texts piece by piece, up to `most`.

    A cut adds a token or two to a piece of thousands, so a limit of twice the allowed number refuses nothing wrongly.
    A text of megabytes costs no more than one that just does not fit.
    """
    num_tokens = 0
    for text in texts:
        for at in range(0, len(text) if len(text) > PIECE else 0, PIECE):
            num_tokens += len(tokenizer.encode_batch_fast([text[at : at + PIECE]], add_special_tokens=False)[0])
            if num_tokens > most:
                return num_tokens
    return num_tokens


def _encode_in_batches(tokenizer: Tokenizer, texts: Sequence[str], most: int, add_special_tokens: bool) -> Encoded:
    """Uses `encode_batch_fast`, which releases the GIL; `encode` does not."""
    ids: list[list[int]] = []
    num_tokens = 0
    for at in range(0, len(texts), BATCH):
        batch = tokenizer.encode_batch_fast(list(texts[at : at + BATCH]), add_special_tokens=add_special_tokens)
        encoded = _collected(batch, most - num_tokens)
        ids += encoded.ids
        num_tokens += encoded.num_tokens
        if num_tokens > most:
            return Encoded([], num_tokens, is_least=at + BATCH < len(texts))
    return Encoded(ids, num_tokens)


def _collected(encodings: Sequence[Encoding], most: int) -> Encoded:
    num_tokens = sum(map(len, encodings))
    return Encoded([encoding.ids for encoding in encodings] if num_tokens <= most else [], num_tokens)


def _untouched(source: str) -> Tokenizer:
    """The file's tokenizer without padding and truncation."""
    tokenizer = Tokenizer.from_str(source)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
