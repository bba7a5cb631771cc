"""A large body is read block by block, and a slow client is judged by its progress."""

import io
from types import SimpleNamespace

import gevent
import pytest
from flask import Flask, request

from api.files import upload
from api.files.upload import upload_blocks
from api.gate.body import PIECE_BYTES
from api.gate.body_room import BodyRoom
from common.errors import BodyTooLarge, Overloaded, RequestTimeout, UnsupportedMediaType


class Slow:
    """A client that sends one piece after each pause."""

    def __init__(self, num_pieces, size, pause_s):
        self.left, self.size, self.pause_s = num_pieces, size, pause_s

    def read(self, size=-1):
        if not self.left:
            return b""
        self.left -= 1
        gevent.sleep(self.pause_s)
        return b"x" * min(self.size, size)


@pytest.fixture
def app():
    app = Flask("test")
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.extensions["omni"] = SimpleNamespace(bodies=BodyRoom())
    return app


def sizes(app, stream, most_bytes=10**9, **environ):
    with app.test_request_context(
        "/v1/files", method="POST", environ_overrides={"wsgi.input": stream, "wsgi.input_terminated": True} | environ
    ):
        return [len(block) for block in upload_blocks(request, most_bytes)]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_comes_in_blocks_whatever_the_limit_of_other_routes(app, is_chunked):
    body = bytes(10 * PIECE_BYTES + 5)
    announced = {} if is_chunked else {"CONTENT_LENGTH": str(len(body))}
    assert sizes(app, io.BytesIO(body), **announced) == [PIECE_BYTES] * 10 + [5]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("more", [0, 1])
def test_a_body_may_be_as_large_as_the_limit_of_its_route(app, is_chunked, more):
    body = bytes(3 * PIECE_BYTES + more)
    announced = {} if is_chunked else {"CONTENT_LENGTH": str(len(body))}
    if more:
        with pytest.raises(BodyTooLarge, match=f"larger than {3 * PIECE_BYTES} bytes"):
            sizes(app, io.BytesIO(body), 3 * PIECE_BYTES, **announced)
    else:
        assert sum(sizes(app, io.BytesIO(body), 3 * PIECE_BYTES, **announced)) == 3 * PIECE_BYTES


def test_an_upload_may_last_longer_than_a_request_as_long_as_it_makes_progress(app, monkeypatch):
    monkeypatch.setattr("api.gate.body.BODY_DEADLINE_S", 0.1)
    stream = Slow(num_pieces=6, size=PIECE_BYTES, pause_s=0.04)  # 0.24 s together
    assert sum(sizes(app, stream, CONTENT_LENGTH=str(6 * PIECE_BYTES))) == 6 * PIECE_BYTES


@pytest.mark.parametrize("announced", [{}, {"CONTENT_LENGTH": str(6 * PIECE_BYTES)}], ids=["chunked", "announced"])
def test_a_client_that_sends_a_byte_now_and_then_is_given_up(app, monkeypatch, announced):
    """Each byte comes in time, a block does not."""
    monkeypatch.setattr("api.gate.body.BODY_DEADLINE_S", 0.1)
    with pytest.raises(RequestTimeout, match="came too slowly"):
        sizes(app, Slow(num_pieces=1000, size=1, pause_s=0.01), **announced)


def test_an_upload_reserves_little_room_and_gives_it_back(app):
    room = app.extensions["omni"].bodies = BodyRoom(upload.UPLOAD_BYTES * 4)
    with room.held("you", upload.UPLOAD_BYTES * 3), pytest.raises(Overloaded):
        with room.held("x", upload.UPLOAD_BYTES):
            sizes(app, io.BytesIO(b"x"))
    for _ in range(10):
        assert sizes(app, io.BytesIO(b"x")) == [1]


def test_a_packed_body_is_refused(app):
    with pytest.raises(UnsupportedMediaType, match="send it plain"):
        sizes(app, io.BytesIO(b"x"), HTTP_CONTENT_ENCODING="gzip")
