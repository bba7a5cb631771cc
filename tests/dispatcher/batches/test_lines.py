"""The lines of an input file: what is refused, with which words, and at which line."""

from io import BytesIO
from typing import Any

import orjson
import pytest

from dispatcher.batches import lines
from dispatcher.batches.lines import check, ids_of, requests_of

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": []}


def line(**changes: Any) -> bytes:
    return orjson.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": BODY} | changes) + b"\n"


def faults_of(*raw: bytes) -> list[tuple[str, int | None, str | None]]:
    return [(fault.code, fault.line, fault.param) for fault in check(raw, CHAT).faults]


def test_a_good_file_has_its_requests_counted_and_its_first_model_named() -> None:
    found = check([line(), line(custom_id="b", body={"model": "other"})], CHAT)
    assert (found.num_lines, found.model, found.faults) == (2, "tiny", ())


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b'{"custom_id": NaN}', "invalid_json_line", None),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(custom_id="a\0b"), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "url_mismatch", "url"),
        (line(body="text"), "invalid_body", "body"),
        (line(body={}), "missing_required_parameter", "body.model"),
        (line(body={"model": 1}), "missing_required_parameter", "body.model"),
        (line(body={"model": "a\0b"}), "missing_required_parameter", "body.model"),
    ],
)
def test_a_bad_line_is_named_by_its_number(raw: bytes, code: str, param: str | None) -> None:
    assert faults_of(line(), raw, line(custom_id="c")) == [(code, 2, param)]


def test_a_custom_id_stands_once_in_a_file() -> None:
    assert faults_of(line(), line(custom_id="b"), line()) == [("duplicate_custom_id", 3, "custom_id")]


@pytest.mark.parametrize("raw", [[], [b""], [b"\n", b"  \n"]])
def test_a_file_without_requests_is_refused(raw: list[bytes]) -> None:
    assert faults_of(*raw) == [("empty_file", None, None)]


def test_a_line_that_no_request_could_be_is_refused_before_it_fills_the_memory() -> None:
    class Watched(BytesIO):
        longest = 0

        def readline(self, size: int | None = -1) -> bytes:
            found = super().readline(size)
            self.longest = max(self.longest, len(found))
            return found

    file = Watched(line() + b"[" + b"{}," * (lines.MAX_LINE_BYTES // 2) + b"{}]\n")
    [fault] = check(lines.lines_in(file), CHAT).faults
    assert (fault.code, fault.line) == ("line_too_large", 2)
    assert file.longest == lines.MAX_LINE_BYTES + 1


def test_a_file_is_open_only_while_a_page_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PAGE_BYTES", 150)
    raw, opened = b"".join(line(custom_id=str(number)) for number in range(10)), []

    def open_file() -> BytesIO:
        opened.append(BytesIO(raw))
        return opened[-1]

    for number, found in enumerate(lines.paged_lines(open_file)):
        assert found == line(custom_id=str(number)) and opened[-1].closed
    assert (number, len(opened)) == (9, 6)


def test_of_a_long_model_name_what_the_store_holds_is_kept() -> None:
    assert check([line(body={"model": "m" * 300})], CHAT).model == "m" * 256


def test_blank_lines_are_skipped_and_counted() -> None:
    raw = [line(), b"\n", line(custom_id="b")]
    assert check(raw, CHAT).num_lines == 2
    assert list(ids_of(raw, CHAT)) == [(1, "a"), (3, "b")]
    assert faults_of(b"\n", b"x") == [("invalid_json_line", 2, None)]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    lines = [b"\xef\xbb\xbf" + line(), b"\n"]
    assert check(lines, CHAT).faults == () and [found.number for found in requests_of(lines, CHAT)] == [1]


def test_a_file_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES", 2)
    assert faults_of(*(line(custom_id=name) for name in "abc")) == [("too_many_tasks", 3, None)]
    monkeypatch.setattr(lines, "MAX_BYTES", 2 * len(line()) - 1)
    assert faults_of(line(), line(custom_id="b")) == [("file_too_large", 2, None)]


def test_of_many_faults_the_first_hundred_are_reported() -> None:
    assert len(faults_of(*[b"x"] * 300)) == 100


def test_the_body_is_sent_as_it_is_also_with_numbers_of_more_than_64_bits() -> None:
    raw = (
        b'{"custom_id":"a","method":"POST","url":"%b","body":{"model":"tiny","seed":36893488147419103232}}'
        % CHAT.encode()
    )
    [request] = requests_of([raw], CHAT)
    assert (request.number, request.custom_id) == (1, "a")
    assert request.body == b'{"model":"tiny","seed":36893488147419103232}'
