"""The spelling of a vocabulary: each token's bytes, and the decoder's rules for joining them."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BEFORE = "a"  # decoded before a token, to get the token's text as it is inside a text


class Spelling:
    """The spelling of one tokenizer. Build it once: it reads all added tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        added = tokenizer.get_added_tokens_decoder().values()
        self.special_names = frozenset(token.content for token in added if token.special)
        self._byte_names, self.has_only_bytes = byte_names_of(self._decoder)
        self._bytes = {name: byte for byte, name in enumerate(self._byte_names)}
        self._has_byte_tokens = self._byte_names[:1] == ["<0x00>"]
        self._is_byte_level = bool(self._byte_names) and not self._has_byte_tokens

    def name(self, token_id: int) -> str | None:
        """The token's name in the vocabulary; None for an unknown id."""
        found: str | None = self._tokenizer.id_to_token(token_id)
        return found

    def bytes_of(self, name: str) -> bytes | None:
        """The bytes that the decoder emits for this token; None if it treats the token as text."""
        if self._is_byte_level:
            known = all(char in self._bytes for char in name)
            return bytes(self._bytes[char] for char in name) if known else name.encode()
        if self._has_byte_tokens and (match := BYTE_TOKEN.fullmatch(name)):
            return bytes([int(match[1], 16)])
        return None

    def characters(self, raw: bytes) -> tuple[str, bytes]:
        """The text of a sequence of bytes, and the bytes at its end that later bytes may complete.

        Invalid UTF-8 becomes U+FFFD as in the decoder: one per broken sequence, or one per byte of it.
        """
        try:
            text, num_read = codecs.utf_8_decode(raw, "replace" if self._is_byte_level else "strict", False)
        except UnicodeDecodeError as fault:
            rest, held = self.characters(raw[fault.end :])
            return raw[: fault.start].decode() + REPLACEMENT * (fault.end - fault.start) + rest, held
        return text, raw[num_read:]

    def names_of(self, text: str) -> list[str]:
        """The names of the byte tokens that spell a text."""
        return [self._byte_names[byte] for byte in text.encode()]

    def decoded(self, names: Sequence[str]) -> str:
        """The decoder's text for a sequence of token names."""
        return " ".join(names) if self._decoder is None else str(self._decoder.decode(list(names)))

    def token_bytes(self, token_id: int) -> bytes:
        """The token's bytes inside a text; empty for an unknown id."""
        if (name := self.name(token_id)) is None:
            return b""
        if (raw := self.bytes_of(name)) is not None:
            return raw
        return self.decoded([BEFORE, name])[len(self.decoded([BEFORE])) :].encode()


def shown(raw: bytes) -> str:
    """A token's text. Bytes that are not a whole character are escaped as OpenAI does it: \\xe2\\x80."""
    return raw.decode("utf-8", "backslashreplace")


def byte_names_of(decoder: Any) -> tuple[list[str], bool]:
    """The names of the 256 byte tokens (none if it has none), and whether the decoder does nothing else."""
    kinds = set() if decoder is None else set(kinds_of(json.loads(decoder.__getstate__())))
    if "ByteLevel" in kinds:
        return byte_alphabet(), kinds <= {"ByteLevel", "Fuse", "Sequence"}
    return [f"<0x{byte:02X}>" for byte in range(256)] if "ByteFallback" in kinds else [], False


def kinds_of(decoder: Mapping[str, Any]) -> Iterator[str]:
    """The types of a decoder and of its parts."""
    yield str(decoder["type"])
    for part in decoder.get("decoders", ()):
        yield from kinds_of(part)


def byte_alphabet() -> list[str]:
    """GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
