"""Packed bodies: unpacked up to the size of a body, refused by name otherwise."""

import gzip
import json
import random
import zlib

import pytest

from api.app import create_app
from api.gate.body import MAX_BODY_BYTES
from api.gate.coding import Unpacker
from common.errors import InvalidRequest
from common.settings import read_settings

KEY = {"Authorization": "Bearer sk-local"}
BODY = json.dumps({"model": "tiny", "messages": []}).encode()  # refused with its field named, once it was read
PACKED = gzip.compress(BODY, mtime=0)  # a time in it would name a test differently in each process


def raw_deflate(text):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


@pytest.fixture(scope="module")
def post():
    client = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()

    def send(data, coding):
        headers = KEY | ({"Content-Encoding": coding} if coding else {})
        answer = client.post("/v1/chat/completions", data=data, content_type="application/json", headers=headers)
        return answer.status_code, answer.get_json()["error"]

    return send


@pytest.mark.parametrize(
    ("pack", "coding"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, "x-gzip"),
        (gzip.compress, "GZIP"),
        (zlib.compress, "deflate"),
        (raw_deflate, "deflate"),
        (bytes, "identity"),
        (lambda text: b"\xef\xbb\xbf" + text, ""),
        (lambda text: gzip.compress(b"\xef\xbb\xbf" + text), "gzip"),
    ],
)
def test_a_packed_body_and_one_with_a_byte_order_mark_are_read(pack, coding, post):
    assert post(pack(BODY), coding) == post(BODY, "")
    assert post(BODY, "")[1]["param"] == "messages"


@pytest.mark.parametrize(("num_bytes", "status"), [(MAX_BODY_BYTES, 400), (MAX_BODY_BYTES + 1, 413)])
def test_an_unpacked_body_may_be_as_large_as_a_plain_one(num_bytes, status, post):
    assert post(gzip.compress(BODY.ljust(num_bytes), 1), "gzip")[0] == status


def test_a_bomb_is_refused_before_it_is_unpacked(post, monkeypatch):
    bomb = gzip.compress(b" " * (20 * MAX_BODY_BYTES), 1)
    unpacked = []
    read = Unpacker.read

    def counted(unpacker, size):
        piece = read(unpacker, size)
        unpacked.append(len(piece))
        return piece

    monkeypatch.setattr(Unpacker, "read", counted)
    status, error = post(bomb, "gzip")
    assert (status, error["code"]) == (413, "body_too_large")
    assert sum(unpacked) < 1.1 * MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("raw", "coding", "status", "why"),
    [
        (BODY, "gzip", 400, "not valid gzip"),
        (PACKED[:-9], "gzip", 400, "ends before"),
        (PACKED * 2, "gzip", 400, "goes on after"),
        (b"", "deflate", 400, "ends before"),
        (b"\xff\xff", "deflate", 400, "not valid deflate"),
        (BODY, "br", 415, "'br'"),
        (BODY, "gzip, gzip", 415, "gzip, deflate or a plain body"),
    ],
)
def test_what_cannot_be_unpacked_is_refused_with_the_reason(raw, coding, status, why, post):
    got, error = post(raw, coding)
    assert got == status and why in error["message"]


def test_a_packed_body_without_text_is_not_read_to_its_end():
    unpacker = Unpacker(b"\0\0\0\xff\xff" * 10**5, "deflate")
    with pytest.raises(InvalidRequest, match="not valid"):
        unpacker.read(1024)
    assert len(unpacker._packed) > 4 * 10**5


@pytest.mark.parametrize("size", [1000, 10**6])
def test_a_body_of_many_turns_is_unpacked_as_it_was(size):
    text = bytes(random.Random(0).randbytes(300_000)) + b"a" * 10**5
    for packed, coding in (
        (gzip.compress(text), "gzip"),
        (zlib.compress(text), "deflate"),
        (raw_deflate(text), "deflate"),
    ):
        unpacker = Unpacker(packed, coding)
        assert b"".join(iter(lambda unpacker=unpacker: unpacker.read(size), b"")) == text


def test_a_text_is_unpacked_piece_by_piece():
    text = bytes(range(256)) * 40
    unpacker, pieces = Unpacker(gzip.compress(text), "gzip"), []
    while piece := unpacker.read(100):
        pieces.append(piece)
    assert b"".join(pieces) == text and max(map(len, pieces)) <= 100
    with pytest.raises(InvalidRequest):
        Unpacker(b"no", "gzip").read(100)
