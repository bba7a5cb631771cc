"""What bytes a token stands for. A token of a byte-level vocabulary may be half a character."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
WORD_START = "\u2581"  # SentencePiece's mark of a space


class TokenBytes:
    """For one tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self._tokenizer = tokenizer
        self._added = {token: added.content for token, added in tokenizer.get_added_tokens_decoder().items()}
        kinds = set(kinds_of(orjson.loads(source).get("decoder")))
        self._alphabet = byte_alphabet() if "ByteLevel" in kinds else None
        self._has_byte_tokens = "ByteFallback" in kinds

    def __call__(self, token_id: int) -> bytes:
        """Empty for an id that the vocabulary does not have."""
        name = self._tokenizer.id_to_token(token_id)
        if name is None:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._alphabet is not None and all(char in self._alphabet for char in name):
            return bytes(self._alphabet[char] for char in name)
        if self._has_byte_tokens and (match := BYTE_TOKEN.fullmatch(name)):
            return bytes([int(match[1], 16)])
        return str(name).replace(WORD_START, " ").encode()


def shown(raw: bytes) -> str:
    """A token's text; bytes that are no whole character are written as OpenAI writes them: \\xe2\\x80."""
    return raw.decode("utf-8", "backslashreplace")


def kinds_of(decoder: Any) -> Iterator[str]:
    """The types of a decoder and of those that it is made of."""
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders", ()):
            yield from kinds_of(part)


def byte_alphabet() -> Mapping[str, int]:
    """Byte-level vocabularies spell each byte as one printable character (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}
