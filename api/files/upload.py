"""Reads a body that is larger than a request may be: block by block, so that its size costs no memory.

A slow client is given up by its progress: each block of 64 KiB has the time that a whole request has.
"""

from collections.abc import Iterator

from flask import Request, current_app
from gevent import Timeout

from api.gate.auth import presented_key
from api.gate.body import BODY_DEADLINE_S, CHUNKED_PIECE_BYTES, PIECE_BYTES, in_turns, naming_faults
from api.gate.coding import coding_of
from common.errors import RequestTimeout, UnsupportedMediaType
from common.redis.keys import owner_of

UPLOAD_BYTES = 2 * 2**20  # the memory that one upload may hold: blocks, and what is on its way to the disk


def upload_blocks(request: Request, most_bytes: int) -> Iterator[bytes]:
    """The body in blocks. The caller's key must have been checked before.

    Raises InvalidRequest, BodyTooLarge, Overloaded, UnsupportedMediaType, or RequestTimeout.
    """
    if coding_of(request):
        raise UnsupportedMediaType("This path does not take a packed body; send it plain.")
    with current_app.extensions["omni"].bodies.held(owner_of(presented_key(request)), UPLOAD_BYTES):
        request.max_content_length = most_bytes + 1  # werkzeug refuses a body as soon as it is this long
        with naming_faults(most_bytes):
            while block := _block(request):
                yield block


def _block(request: Request) -> bytes:
    """PIECE_BYTES of the body, or its end."""
    size = CHUNKED_PIECE_BYTES if request.content_length is None else PIECE_BYTES
    found = bytearray()
    try:
        with Timeout(BODY_DEADLINE_S):
            for piece in in_turns(request.stream.read, size):
                found += piece
                if len(found) >= PIECE_BYTES:
                    break
    except Timeout:
        raise RequestTimeout(
            f"{PIECE_BYTES} bytes of the body did not arrive within {BODY_DEADLINE_S:.0f} s."
        ) from None
    return bytes(found)
