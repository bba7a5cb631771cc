"""The lines of an input file: read, checked as OpenAI checks them, and counted from 1."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import orjson

from common.json_bytes import json_bytes

MAX_LINES = 50_000
MAX_BYTES = 200 * 1024 * 1024
MAX_LINE_BYTES = 9 * 2**20  # a body as large as the API takes one, and what stands around it
MAX_CUSTOM_ID = 512  # characters
PAGE_BYTES = 256 * 1024  # of whole lines that are read at once
MAX_MODEL = 256  # characters that SQL holds
MAX_FAULTS = 100  # that are reported of one file
NUL = "\0"  # PostgreSQL holds no text with it
LONG_NUMBER = re.compile(rb"\d{19}")  # may exceed 64 bits: orjson would make a float of it


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    number: int  # in the file, from 1
    custom_id: str
    body: bytes  # JSON, as the file has it


@dataclass(frozen=True, slots=True)
class LineFault:
    """Why a file is refused: an entry of the batch's `errors.data`."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def entry(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What is known of a file that has been read to its end."""

    num_lines: int
    model: str  # of the first line
    faults: tuple[LineFault, ...]


class BadLine(Exception):
    """A line that is no request of its batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def lines_in(file: BinaryIO) -> Iterator[bytes]:
    """A line that is too long comes in parts, so that it fills no memory."""
    while raw := file.readline(MAX_LINE_BYTES + 1):
        yield raw


def paged_lines(open_file: Callable[[], BinaryIO]) -> Iterator[bytes]:
    """The file is open while a page is read only, so that many open batches take no descriptors."""
    at = 0
    while True:
        page: list[bytes] = []
        with open_file() as file:
            file.seek(at)
            until = at + PAGE_BYTES
            while at < until and (raw := file.readline()):
                page.append(raw)
                at += len(raw)
        if not page:
            return
        yield from page


def check(raw_lines: Iterable[bytes], endpoint: str) -> CheckedFile:
    """Read all lines of a file for batches of `endpoint`, keeping only their custom_ids."""
    seen: set[str] = set()
    faults: list[LineFault] = []
    num_lines = num_bytes = 0
    model = ""
    for number, raw in enumerate(raw_lines, 1):
        num_bytes += len(raw)
        if num_bytes > MAX_BYTES:
            return _refused(LineFault("file_too_large", f"The file is larger than {MAX_BYTES >> 20} MB.", number))
        if len(raw) > MAX_LINE_BYTES:
            return _refused(LineFault("line_too_large", f"A line is larger than {MAX_LINE_BYTES >> 20} MB.", number))
        if not raw.strip():
            continue
        num_lines += 1
        if num_lines > MAX_LINES:
            return _refused(LineFault("too_many_tasks", f"A batch has at most {MAX_LINES} requests.", number))
        try:
            custom_id, body = parse_line(raw, endpoint)
            if custom_id in seen:
                raise BadLine("duplicate_custom_id", f"The custom_id {custom_id!r} was used before.", "custom_id")
        except BadLine as bad:
            faults.append(LineFault(bad.code, bad.message, number, bad.param))
            if len(faults) == MAX_FAULTS:
                break
            continue
        seen.add(custom_id)
        model = model or body["model"][:MAX_MODEL]
    if not num_lines:
        return _refused(LineFault("empty_file", "The input file has no requests."))
    return CheckedFile(num_lines, model, tuple(faults))


def _refused(fault: LineFault) -> CheckedFile:
    return CheckedFile(0, "", (fault,))


def requests_of(raw_lines: Iterable[bytes], endpoint: str) -> Iterator[Line]:
    """The requests of a file that check() found no fault in."""
    for number, raw in enumerate(raw_lines, 1):
        if raw.strip():
            custom_id, body = parse_line(raw, endpoint)
            yield Line(number, custom_id, json_bytes(body))


def parse_line(raw: bytes, endpoint: str) -> tuple[str, dict[str, Any]]:
    """The custom_id and the body of a line. Raises BadLine."""
    raw = raw.removeprefix(BOM_UTF8)  # Windows' editors begin a file with it
    try:
        value = orjson.loads(raw)
        if LONG_NUMBER.search(raw):
            value = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadLine("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(value, dict):
        raise BadLine("invalid_json_line", "This line is not a JSON object.")
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID or NUL in custom_id:
        raise BadLine("invalid_custom_id", f"A text of 1 to {MAX_CUSTOM_ID} characters is required.", "custom_id")
    if value.get("method") != "POST":
        raise BadLine("invalid_method", "The only method of a batch is POST.", "method")
    if value.get("url") != endpoint:
        raise BadLine("url_mismatch", f"The url of every line must be the batch's endpoint, {endpoint}.", "url")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", "An object is required.", "body")
    if not isinstance(body.get("model"), str) or not body["model"] or NUL in body["model"]:
        raise BadLine("missing_required_parameter", "A model is required.", "body.model")
    return custom_id, body


def ids_of(raw_lines: Iterable[bytes], endpoint: str) -> Iterator[tuple[int, str]]:
    """Number and custom_id of each request of such a file."""
    for number, raw in enumerate(raw_lines, 1):
        if raw.strip():
            yield number, parse_line(raw, endpoint)[0]
