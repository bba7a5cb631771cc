"""GET /v1/files/{id}/content: the bytes, whole or a range of them, read in a thread piece by piece."""

from io import SEEK_SET
from typing import Any, BinaryIO
from urllib.parse import quote

from flask import Request, Response
from werkzeug.http import dump_options_header

from api.gate.client_watch import SEND_TIMEOUT_S
from api.gate.gunicorn_seams import client_socket
from api.jobs.service import Service
from api.process.offload import in_file_thread
from common.errors import NotFound
from common.files.storage import PIECE_BYTES
from common.records.files import FileRecord


class FileBytes:
    """The body of an answer. werkzeug seeks in it for a range. The file is opened by the first read."""

    def __init__(self, service: Service, record: FileRecord) -> None:
        self._service = service
        self._record = record
        self._at = 0
        self._file: BinaryIO | None = None

    def __iter__(self) -> "FileBytes":
        return self

    def __next__(self) -> bytes:
        if self._at >= self._record.num_bytes:
            raise StopIteration
        piece: bytes = in_file_thread(self._read)
        if not piece:
            raise OSError(f"{self._record.id} is shorter than its record says")  # the client sees the connection end
        self._at += len(piece)
        return piece

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if self._file is not None:
            in_file_thread(self._file.close)

    def _read(self) -> bytes:
        if self._file is None:
            self._file = self._service.files.open(self._record.id)
            self._file.seek(self._at)
        return self._file.read(PIECE_BYTES)


def content(service: Service, request: Request, record: FileRecord, mimetype: str) -> Response:
    """Raises NotFound when the bytes are gone, or werkzeug's RequestedRangeNotSatisfiable."""
    try:
        in_file_thread(service.files.size, record.id)
    except FileNotFoundError:
        raise NotFound(f"The bytes of {record.id} are gone.") from None
    body: Any = FileBytes(service, record)
    response = Response(body, mimetype=mimetype, direct_passthrough=True)
    response.content_length = record.num_bytes
    response.set_etag(record.id)  # a file never changes
    response.headers["Content-Disposition"] = attachment(record.filename)
    if (client := client_socket(request.environ)) is not None:
        client.settimeout(SEND_TIMEOUT_S)  # a client that stops reading is dropped
    accept_ranges = is_one_range(request)
    response.make_conditional(request, accept_ranges=accept_ranges, complete_length=record.num_bytes)
    response.headers["Accept-Ranges"] = "bytes"
    return response


def is_one_range(request: Request) -> bool:
    """False for a Range that is to be ignored (RFC 9110 14.2): malformed, of another unit, of several parts."""
    return request.range is not None and request.range.units == "bytes" and len(request.range.ranges) == 1


def attachment(filename: str) -> str:
    """A Content-Disposition. A name beyond ASCII is in RFC 8187's form."""
    if filename.isascii():
        return dump_options_header("attachment", {"filename": filename})
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
