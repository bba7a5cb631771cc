"""multipart/form-data (RFC 7578), read block by block: short fields are kept, the bytes of the one file are handed on.

werkzeug's own decoder finds other parts in the same body when it is cut into other blocks.
"""

import re
from collections.abc import Iterator

from flask import Request
from werkzeug.http import parse_options_header

from common.errors import InvalidRequest, UnsupportedMediaType

MAX_PARTS = 32
MAX_HEADER_BYTES = 16 * 1024  # of one part
MAX_FIELD_BYTES = 4096  # of a field, its name or a file's name
MAX_BOUNDARY = 70  # RFC 2046
MAX_FORM_BYTES = 256 * 1024  # of everything but the file
# What makes a boundary of its text: the last one's dashes or a line's end, after blanks; or a block ends before that is
# known. On a line that goes on otherwise, the text is the file's own.
LINE_END = rb"(?:(?P<last>--)|(?P<next>[ \t]{0,64}\r\n)|(?:-|[ \t]{0,64}\r?)\Z)"
MALFORMED = "The body is not well formed multipart/form-data"


class FormReader:
    """`fields` and `filename` are there once they have been read; the file may stand anywhere among the fields."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._boundary = re.compile(rb"\r\n--" + re.escape(boundary) + LINE_END)
        self._num_uncertain = len(boundary) + 3  # bytes at a block's end that may begin a boundary
        self._buffer = bytearray(b"\r\n")  # so that the first boundary has a line break before it too
        self._names: set[str] = set()
        self._name = ""  # of the part that is being read; "" before the first
        self._value = bytearray()  # of the field that is being read
        self._is_in_headers = False
        self._is_whole = False

    def feed(self, block: bytes) -> bytes:
        """The file's bytes that are certain with this block. Raises InvalidRequest."""
        self._buffer += block
        return b"".join(self._file_bytes())

    def end(self) -> None:
        """Raises InvalidRequest for a body that ends before its last boundary."""
        if not self._is_whole:
            raise InvalidRequest(f"{MALFORMED}: it ends before its last boundary.")

    def _file_bytes(self) -> Iterator[bytes]:
        while not self._is_whole:
            if self._is_in_headers:
                if not self._has_read_headers():
                    return
            else:
                data, is_end = self._until_boundary()
                if self._name == "file":
                    yield data
                elif self._name:
                    self._keep(data, is_end)
                if not is_end:
                    return
        self._buffer.clear()  # what follows the last boundary means nothing

    def _until_boundary(self) -> tuple[bytes, bool]:
        """The data of the part as far as it is certain, and whether it ends there."""
        buffer = self._buffer
        if (found := self._boundary.search(buffer)) is not None:
            self._is_whole = found.group("last") is not None
            self._is_in_headers = found.group("next") is not None
            is_end = self._is_whole or self._is_in_headers
            return self._taken(found.start(), found.end() if is_end else found.start()), is_end
        certain = max(0, len(buffer) - self._num_uncertain)
        return self._taken(certain, certain), False

    def _taken(self, num_bytes: int, num_removed: int) -> bytes:
        data = bytes(self._buffer[:num_bytes])
        del self._buffer[:num_removed]
        return data

    def _has_read_headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if max(end, len(self._buffer) if end < 0 else 0) > MAX_HEADER_BYTES:
            raise InvalidRequest(f"{MALFORMED}: the headers of a part are too long.")
        if end < 0:
            return False
        self._begin(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._is_in_headers = False
        return True

    def _begin(self, headers: bytes) -> None:
        name, filename = _disposition(headers)
        if name in self._names:
            raise InvalidRequest(f"The field {name[:64]!r} stands twice in the form.", param=name[:64])
        if len(self._names) == MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} fields.")
        if name == "file":
            if not filename:
                raise InvalidRequest("'file' must be a file with a name, not a text field.", param="file")
            self.filename = filename
        self._names.add(name)
        self._name = name

    def _keep(self, data: bytes, is_end: bool) -> None:
        """A piece of a field's value."""
        self._value += data
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"'{self._name[:64]}' is longer than {MAX_FIELD_BYTES} bytes.", param=self._name[:64])
        if is_end:
            try:
                self.fields[self._name] = self._value.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"'{self._name[:64]}' is not UTF-8.", param=self._name[:64]) from None
            self._value.clear()


def _disposition(headers: bytes) -> tuple[str, str]:
    """The name of a part, and its file's name or ""."""
    try:
        lines = [line.partition(":") for line in headers.decode().split("\r\n")]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{MALFORMED}: a header is not UTF-8.") from None
    found = [value for name, _, value in lines if name.strip().lower() == "content-disposition"]
    kind, options = parse_options_header(found[0] if found else "")
    name, filename = options.get("name", ""), options.get("filename", "")
    if kind.lower() != "form-data" or not 1 <= len(name) <= MAX_FIELD_BYTES or len(filename) > MAX_FIELD_BYTES:
        raise InvalidRequest(f"{MALFORMED}: each part needs 'Content-Disposition: form-data' with a name.")
    return name, filename


def form_reader(request: Request) -> FormReader:
    """Raises UnsupportedMediaType or InvalidRequest."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the file as a form, with 'Content-Type: multipart/form-data; boundary=...'.")
    boundary = request.mimetype_params.get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
        raise InvalidRequest(f"The Content-Type has no boundary of 1 to {MAX_BOUNDARY} ASCII characters.")
    return FormReader(boundary.encode())
