"""Reads a request's body: bounded in size and time, in slices so that other requests get their turns."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from flask import Flask, Request, Response, current_app, g, request
from gevent import Timeout
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.gate.auth import presented_key
from api.gate.coding import Unpacker, coding_of
from api.gate.errors import is_ollamas
from api.gate.gunicorn_seams import MalformedBody, close_after, is_gunicorns
from api.gate.json_object import parse_object
from api.process.offload import offload
from common.errors import BodyTooLarge, InvalidRequest, RequestTimeout, UnsupportedMediaType
from common.redis.keys import owner_of

MAX_BODY_BYTES = 8 * 1024 * 1024
BODY_DEADLINE_S = 10.0  # of each piece: a slow client is given up by its progress
PIECE_BYTES = 64 * 1024
UNPACKED_PIECE_BYTES = 512 * 1024
CHUNKED_PIECE_BYTES = 1024  # every byte may be a chunk of its own
SLICE_S = 0.005
PAUSE_S = 0.0001  # with a sleep of 0 gevent runs what is ready, but does not look for new events
MAX_DRAINED_BYTES = 8 * MAX_BODY_BYTES
DRAIN_S = 2.0


def read_body(request: Request) -> dict[str, Any]:
    """The request's JSON object. The caller's key must have been checked before.

    Raises InvalidRequest, BodyTooLarge, Overloaded, or RequestTimeout.
    """
    if request.mimetype != "application/json" and not is_ollamas(request.path):  # its clients name any type
        raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
    coding = coding_of(request)
    announced = min(request.content_length or 0, MAX_BODY_BYTES)
    with current_app.extensions["omni"].bodies.held(owner_of(presented_key(request)), announced) as take:
        raw = _body(request, take)
        if coding:
            raw = b"".join(_unpacked(Unpacker(raw, coding), take))
        g.num_body_bytes = len(raw)
        return offload(parse_object, raw)


def read_optional_body(request: Request) -> dict[str, Any]:
    """As `read_body`, and an empty object where there is no body."""
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    return read_body(request) if has_body else {}


def _body(request: Request, take: Callable[[int], None]) -> bytes:
    """A body without an announced length reserves room as it arrives, because most of them are small."""
    if request.content_length is not None and request.content_length > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES)
    found = []
    for block in blocks_of(request, MAX_BODY_BYTES):
        if request.content_length is None:
            take(len(block))
        found.append(block)
    return b"".join(found)


def blocks_of(request: Request, most_bytes: int) -> Iterator[bytes]:
    """The body in blocks of PIECE_BYTES or a little more. Raises InvalidRequest, BodyTooLarge or RequestTimeout."""
    num_bytes = 0
    with _naming_faults(most_bytes):
        while block := _block(request):
            num_bytes += len(block)
            yield block
        if num_bytes < (request.content_length or 0):
            raise ClientDisconnected


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
            f"The body came too slowly: {len(found)} bytes in {BODY_DEADLINE_S:.0f} s, where {PIECE_BYTES} or its end "
            "must come."
        ) from None
    return bytes(found)


def too_large(most_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {most_bytes} bytes.")


@contextmanager
def _naming_faults(most_bytes: int) -> Iterator[None]:
    """The failures of reading a body, as refusals."""
    try:
        yield
    except RequestEntityTooLarge:
        raise too_large(most_bytes) from None
    except (ClientDisconnected, OSError):
        raise InvalidRequest("The body ended before its announced length.") from None
    except MalformedBody:
        raise InvalidRequest("The body's chunks are not well formed.") from None


def _unpacked(unpacker: Unpacker, take: Callable[[int], None]) -> Iterator[bytes]:
    """Refuses a text that is too large as soon as it is."""
    num_bytes = 0
    for piece in in_turns(unpacker.read, UNPACKED_PIECE_BYTES):
        num_bytes += len(piece)
        if num_bytes > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The unpacked body is larger than {MAX_BODY_BYTES} bytes.")
        take(len(piece))
        yield piece


def in_turns(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Read piece by piece and yield to other greenlets between, because a fast sender would never block this one."""
    began = time.monotonic()
    while piece := read(size):
        yield piece
        if time.monotonic() - began > SLICE_S:
            gevent.sleep(PAUSE_S)
            began = time.monotonic()


def install_draining(app: Flask) -> None:
    """After an answer, read the rest of its request's body in slices; gunicorn would read it without a pause."""

    @app.after_request
    def drain(response: Response) -> Response:
        body: Any = request.environ.get("wsgi.input")
        if is_gunicorns(body) and (body.failed or not _is_drained(body)):
            close_after(body)
        return response


def _is_drained(body: Any) -> bool:
    num_bytes = 0
    try:
        with Timeout(DRAIN_S):
            for piece in in_turns(body.read, CHUNKED_PIECE_BYTES):
                num_bytes += len(piece)
                if num_bytes > MAX_DRAINED_BYTES:
                    return False
    except (Timeout, OSError, MalformedBody):
        return False
    return True
