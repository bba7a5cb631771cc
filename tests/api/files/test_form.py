"""multipart/form-data in blocks of any size: the same fields and file, and refusals for what is not well formed."""

import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.files.form import MAX_PARTS, FormReader
from api.gate.body import PIECE_BYTES
from common.errors import InvalidRequest

FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'


def field(name, value):
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def form(*parts, boundary=b"b0"):
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


def read(body, size=PIECE_BYTES, boundary=b"b0"):
    reader = FormReader(boundary)
    data = b"".join(reader.feed(body[at : at + size]) for at in range(0, len(body), size))
    reader.end()
    return reader, data


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, PIECE_BYTES])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"\r\n", b"\r\n--b", b"a\r\n--b1\r\n--b0x\n", b"--b0", b"\r\n--b0 \t \r", b"\n\n\r\r\x00"]
)
def test_fields_and_file_are_the_same_however_the_body_is_cut(size, content):
    body = form(field("purpose", "batch"), FILE + content, field("expires_after[seconds]", "3600"))
    reader, data = read(body, size)
    assert data == content and reader.filename == "a.jsonl"
    assert reader.fields == {"purpose": "batch", "expires_after[seconds]": "3600"}


@settings(max_examples=150)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_come_through_as_they_were(content, size):
    if b"--b0" not in content:
        assert read(form(FILE + content, field("purpose", "batch")), size)[1] == content


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "last boundary"),
        (b"no form at all", "last boundary"),
        (b"--b0", "last boundary"),
        (form(FILE + b"x")[:-4], "last boundary"),
        (form(FILE + b"x").replace(b"\r\n", b"\n"), "last boundary"),
        (b"--b0\r\n\r\n\r\nx\r\n--b0--\r\n", "with a name"),
        (b"--b0\r\nContent-Type: text/plain\r\n\r\nx\r\n--b0--\r\n", "with a name"),
        (b"--b0\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b0--\r\n", "with a name"),
        (b"--b0\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--b0--\r\n", "with a name"),
        (b"--b0\r\nContent-Disposition: form-data; name=\xff\xfe\r\n\r\nx\r\n--b0--\r\n", "not UTF-8"),
        (form(field("file", "text")), "'file' must be a file"),
        (form(FILE.replace(b"a.jsonl", b"") + b"x"), "'file' must be a file"),
        (form(FILE + b"x", FILE + b"y"), "'file' stands twice"),
        (form(field("purpose", "a"), field("purpose", "b")), "'purpose' stands twice"),
        (form(field("purpose", "x" * 4097)), "longer than 4096"),
        (b"--b0\r\nContent-Disposition: form-data; name=purpose\r\n\r\n\xff\r\n--b0--\r\n", "not UTF-8"),
        (form(*[field(f"f{number}", "x") for number in range(MAX_PARTS + 1)]), "more than 32 fields"),
        (b"--b0\r\nContent-Disposition: form-data; " + b"x" * 300_000, "too long"),
    ],
    ids=range(18),
)
@pytest.mark.parametrize("size", [PIECE_BYTES, 1000])
def test_a_form_that_is_not_well_formed_is_refused(body, why, size):
    with pytest.raises(InvalidRequest, match=why):
        read(body, size)


def test_a_random_body_is_never_an_internal_error():
    chance = random.Random(19)
    pieces = [b"--b0", b"--b0--", b"\r\n", b"\n", b"\r", b"Content-Disposition: form-data", b'; name="', b"file", b'"',
              b'; filename="a"', b"; filename*=", b"UTF-8''%ff", b"x", b"\xff", b"\x00", b":", b" ", b"--"]  # fmt: skip
    for _ in range(3000):
        body = b"".join(chance.choices(pieces, k=chance.randint(1, 30)))
        try:
            read(body, chance.choice([1, 5, 100]))
        except InvalidRequest:
            pass


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r\n--b", b'{"a":"b"}\r\n', b"x", b"\r\n--b0 x"], ids=range(6))
def test_sixteen_megabytes_cost_little_time_and_no_memory_whatever_they_are(line):
    reader = FormReader(b"b0")
    reader.feed(b"--b0\r\n" + FILE)
    block = (line * PIECE_BYTES)[:PIECE_BYTES]
    tracemalloc.start()
    began = time.process_time()
    for _ in range(256):
        reader.feed(block)
    took = time.process_time() - began
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 4
    assert most < 2**20


@pytest.mark.parametrize(
    "name", [b"; a=b" * 12_000, b'"' * 60_000, b"\\" * 60_000, b";" * 60_000, b"%" * 60_000], ids=range(5)
)
def test_a_hostile_header_costs_little_time(name):
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        read(b"--b0\r\nContent-Disposition: form-data; name*=UTF-8''" + name + b"\r\n\r\nx\r\n--b0--\r\n")
        raise InvalidRequest("a header may also be read")
    assert time.process_time() - began < 1
