"""Reads a body that is larger than a request may be: block by block, so that its size costs no memory."""

from collections.abc import Iterator

from flask import Request, current_app

from api.gate.auth import presented_key
from api.gate.body import blocks_of
from api.gate.coding import coding_of
from common.errors import UnsupportedMediaType
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
        yield from blocks_of(request, most_bytes)
