"""The files of a key: found, listed and deleted, with the refusals of each. SQL and disk wait in threads."""

import time
from typing import Any

from flask import Request

from api.jobs.service import Service
from api.process.offload import in_file_thread, in_store_thread
from api.request.pages import is_descending, list_of, page_size
from common.errors import Conflict, InvalidRequest, NotFound
from common.records.files import (
    BATCH,
    BATCH_OUTPUT,
    USER_DATA,
    FileRecord,
    delete_file,
    file_of,
    files_page,
    is_read_by_a_batch,
)

MAX_PAGE = 10_000
PURPOSES = (BATCH, BATCH_OUTPUT, USER_DATA)
# OpenAI's others, of which no file can be here
NOT_HERE = ("assistants", "assistants_output", "fine-tune", "fine-tune-results", "vision", "evals")


def found_file(service: Service, owner: str, file_id: str) -> FileRecord:
    """Raises NotFound also for another key's file, and for one that has expired."""

    def find() -> FileRecord | None:
        with service.records.read() as connection:
            return file_of(connection, owner, file_id, time.time())

    record = in_store_thread(find)
    if record is None:
        raise no_file(file_id)
    return record


def no_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:64]}", param="id")


def listed(service: Service, owner: str, request: Request) -> dict[str, Any]:
    """GET /v1/files. Raises InvalidRequest."""
    args = request.args
    newest_first, purpose, after = is_descending(request), args.get("purpose", ""), args.get("after", "")
    if purpose and purpose not in (*PURPOSES, *NOT_HERE):
        raise InvalidRequest(f"'purpose' must be one of {', '.join(map(repr, PURPOSES))}.", param="purpose")
    limit = page_size(request, default=MAX_PAGE, most=MAX_PAGE)

    def find() -> tuple[list[FileRecord], bool] | None:
        with service.records.read() as connection:
            return files_page(
                connection,
                owner,
                time.time(),
                limit=limit,
                after=after,
                purpose=purpose,
                newest_first=newest_first,
            )

    if (found := in_store_thread(find)) is None:
        raise InvalidRequest("'after' is not the id of a file of this key.", param="after")
    return list_of([described(record) for record in found[0]], has_more=found[1])


def described(record: FileRecord) -> dict[str, Any]:
    """OpenAI's File object."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": int(record.created),
        "expires_at": int(record.expires) if record.expires is not None else None,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def delete(service: Service, owner: str, file_id: str) -> None:
    """The record, then the bytes. Raises NotFound, or Conflict while a batch reads the file."""

    def remove() -> None:
        with service.records.begin() as connection:
            if file_of(connection, owner, file_id, time.time(), locked=True) is None:
                raise no_file(file_id)
            if batch_id := is_read_by_a_batch(connection, file_id):
                raise Conflict(f"The batch {batch_id} still reads this file: cancel it, or wait for its end.")
            delete_file(connection, file_id)

    in_store_thread(remove)
    in_file_thread(service.files.delete, file_id)
