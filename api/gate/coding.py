"""Content codings of request bodies: gzip and deflate are unpacked piece by piece, any other is refused."""

import zlib

from flask import Request

from common.errors import InvalidRequest, UnsupportedMediaType

GZIP = 31  # zlib's wbits for each form; deflate is sent with zlib's header, as the standard says, or without
ZLIB = 15
TURN = 64 * 1024  # bytes that are unpacked at once; so many always hold some text
RAW = -15


def coding_of(request: Request) -> str:
    """'gzip', 'deflate' or '' for a plain body. Raises UnsupportedMediaType."""
    coding = request.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
    if coding in ("", "identity"):
        return ""
    if coding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(
            f"This server does not decode the content coding {coding[:100]!r}; send gzip, deflate or a plain body."
        )
    return coding


class Unpacker:
    """Reads the text of a packed body."""

    def __init__(self, raw: bytes, coding: str) -> None:
        self._packed = memoryview(raw)
        self._coding = coding
        self._zlib = zlib.decompressobj(GZIP if coding == "gzip" else ZLIB if _has_zlib_header(raw) else RAW)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end. Raises InvalidRequest for bytes that are not of this coding."""
        try:
            turn = self._packed[:TURN]
            piece = self._zlib.decompress(turn, size)
        except zlib.error:
            raise InvalidRequest(f"The body is not valid {self._coding}.") from None
        self._packed = self._packed[len(turn) - len(self._zlib.unconsumed_tail) :]
        if not piece and not self._zlib.eof:
            fault = f"is not valid {self._coding}" if self._packed else f"ends before its {self._coding} data does"
            raise InvalidRequest(f"The body {fault}.")
        if self._zlib.eof and (self._zlib.unused_data or self._packed):
            raise InvalidRequest(f"The body goes on after its {self._coding} data.")
        return piece


def _has_zlib_header(raw: bytes) -> bool:
    return raw[:1] == b"\x78" and int.from_bytes(raw[:2], "big") % 31 == 0
