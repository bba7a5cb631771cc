"""POST /v1/files: a form's file to the storage, with a bounded share of memory, disk and time. Nothing stays of an
upload that fails or is cut off.
"""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from flask import Request

from api.files.form import MAX_FORM_BYTES, FormReader, form_reader
from api.files.upload import upload_blocks
from api.jobs.service import Service
from api.process.offload import in_file_thread, in_store_thread
from common.errors import BodyTooLarge, InvalidRequest, OmniError, StorageFull, Unavailable
from common.files.storage import PendingFile
from common.records.database import Connection, StoreError
from common.records.files import BATCH, USER_DATA, FileRecord, add_file, bytes_kept, new_file_id

logger = logging.getLogger("omni.api")

MAX_FILE_BYTES = 512 * 2**20
MAX_BATCH_BYTES = 200 * 2**20
MAX_OWNER_BYTES = 20 * 2**30  # of all files of a key, results of batches included
WRITE_BYTES = 2**20  # handed to the disk at once
BATCH_TTL_S = 30 * 24 * 3600  # OpenAI's default for this purpose; other files stay until they are deleted
MIN_TTL_S, MAX_TTL_S = 3600, 30 * 24 * 3600
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
MAX_FILENAME = 255


def receive_file(service: Service, request: Request, owner: str) -> FileRecord:
    """The caller's key must have been checked before. Raises the refusals of a body, or StorageFull."""
    form = form_reader(request)
    check_room(service, owner, request.content_length or 0)
    with storing(service, new_file_id()) as upload:
        for block in upload_blocks(request, MAX_FILE_BYTES + MAX_FORM_BYTES):
            upload.write(form.feed(block))
            check_form(form, upload.num_bytes)
        form.end()
        record = record_of(form, upload, owner)
        upload.commit(record)
    return record


class Upload:
    """Bytes on their way to the storage, which is called in a thread with WRITE_BYTES at once."""

    def __init__(self, service: Service, file_id: str) -> None:
        self.file_id = file_id
        self.num_bytes = 0
        self._service = service
        self._pending: PendingFile | None = None
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        """Raises StorageFull."""
        self.num_bytes += len(data)
        self._buffer += data
        if len(self._buffer) >= WRITE_BYTES:
            in_file_thread(self._flush)

    def commit(self, record: FileRecord, also: Callable[[Connection], None] | None = None) -> None:
        """The bytes, then the record in one transaction with `also`. Raises StorageFull, and what `also` raises."""
        in_file_thread(self._end)
        whole, self._pending = self._pending, None  # without an answer of the store the record may be there: bytes stay
        try:
            in_store_thread(self._record, record, also)
        except Exception as error:
            if not isinstance(error, StoreError):
                self._pending = whole
            raise

    def discard(self) -> None:
        if self._pending is not None:
            in_file_thread(self._pending.discard)

    def _flush(self) -> None:
        if not self._service.files.has_room(len(self._buffer)):
            raise disk_full()
        if self._pending is None:
            self._pending = self._service.files.create(self.file_id)
        self._pending.write(self._buffer)
        self._buffer.clear()

    def _end(self) -> None:
        self._flush()
        assert self._pending is not None
        self._pending.commit()

    def _record(self, record: FileRecord, also: Callable[[Connection], None] | None) -> None:
        with self._service.records.begin() as connection:
            check_share(bytes_kept(connection, record.owner), record.num_bytes)
            add_file(connection, record)
            if also is not None:
                also(connection)


@contextmanager
def storing(service: Service, file_id: str) -> Iterator[Upload]:
    """An upload that leaves nothing unless it was committed."""
    upload = Upload(service, file_id)
    try:
        yield upload
    except BaseException as error:
        upload.discard()
        if isinstance(error, OSError):
            raise storage_failed(error) from error
        raise


def storage_failed(error: OSError) -> OmniError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return disk_full()
    logger.error("the storage of files failed: %s", error)
    return Unavailable("The storage of files cannot be written now; try again.")


def check_room(service: Service, owner: str, num_bytes: int) -> None:
    """Refuse at once what would not fit. Raises StorageFull."""

    def check() -> None:
        with service.records.read() as connection:
            check_share(bytes_kept(connection, owner), num_bytes)
        if not service.files.has_room(num_bytes):
            raise disk_full()

    in_store_thread(check)


def check_share(kept: int, more: int = 1) -> None:
    """Raises StorageFull."""
    if kept + more > MAX_OWNER_BYTES:
        raise StorageFull(
            f"The files of this key would take {kept + more} bytes, of {MAX_OWNER_BYTES} that a key may keep: delete "
            "files that are not needed."
        )


def disk_full() -> StorageFull:
    return StorageFull("The server's disk has no room for this file: delete files that are not needed.")


def check_form(form: FormReader, num_bytes: int) -> None:
    """Refuse as soon as what has arrived is known to be refused. Raises InvalidRequest or BodyTooLarge."""
    purpose = form.fields.get("purpose")
    if purpose is not None and purpose not in (BATCH, USER_DATA):
        refuse_purpose(purpose)
    most = MAX_BATCH_BYTES if purpose == BATCH else MAX_FILE_BYTES
    if num_bytes > most:
        raise BodyTooLarge(f"The file is larger than {most} bytes, which a file may have here.", param="file")


def refuse_purpose(purpose: str) -> NoReturn:
    why = "is made by batches only" if purpose == "batch_output" else "is not one that this server uses"
    raise InvalidRequest(f"'purpose': {purpose[:64]!r} {why}; it must be 'batch' or 'user_data'.", param="purpose")


def record_of(form: FormReader, upload: Upload, owner: str) -> FileRecord:
    """Raises InvalidRequest for a form that lacks something."""
    if "purpose" not in form.fields:
        raise InvalidRequest("'purpose' is missing; it must be 'batch' or 'user_data'.", param="purpose")
    if form.filename is None:
        raise InvalidRequest("'file' is missing.", param="file")
    if not upload.num_bytes:
        raise InvalidRequest("The file is empty.", param="file")
    purpose, now = form.fields["purpose"], time.time()
    ttl_s = ttl_of(form.fields) or (BATCH_TTL_S if purpose == BATCH else None)
    return FileRecord(
        id=upload.file_id,
        owner=owner,
        created=now,
        expires=now + ttl_s if ttl_s is not None else None,
        num_bytes=upload.num_bytes,
        filename=plain_name(form.filename),
        purpose=purpose,
    )


def plain_name(filename: str) -> str:
    """The last part of a path, without control characters. It is only ever shown."""
    return UNPRINTABLE.sub("", re.split(r"[/\\]", filename)[-1])[:MAX_FILENAME] or "file"


def ttl_of(fields: dict[str, str]) -> int | None:
    """The seconds of `expires_after`. Raises InvalidRequest."""
    if "expires_after" in fields:
        raise InvalidRequest(
            "'expires_after' must be two fields, 'expires_after[anchor]' and 'expires_after[seconds]'.",
            param="expires_after",
        )
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("'expires_after[anchor]' must be 'created_at'.", param="expires_after[anchor]")
    if seconds is None or not re.fullmatch("[0-9]{1,9}", seconds) or not MIN_TTL_S <= int(seconds) <= MAX_TTL_S:
        raise InvalidRequest(
            f"'expires_after[seconds]' must be a whole number from {MIN_TTL_S} to {MAX_TTL_S}.",
            param="expires_after[seconds]",
        )
    return int(seconds)
