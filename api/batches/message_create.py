"""POST /v1/messages/batches: the requests to a file in the storage, as they arrive, and the batch's row with it."""

import time
from typing import Any

from flask import Request

from api.batches.message_requests import ENDPOINT, MessageRequests
from api.batches.objects import KEPT_S
from api.batches.stored import added, found_batch, idempotency_of, made_before, wake
from api.files.receive import BATCH_TTL_S, MAX_BATCH_BYTES, check_room, storing
from api.files.upload import upload_blocks
from api.jobs.service import Service
from api.process.offload import in_python_thread
from common.errors import BodyTooLarge, UnsupportedMediaType
from common.records.batches import BatchRow, new_batch_id
from common.records.database import Connection
from common.records.files import MESSAGE_BATCH, FileRecord, new_file_id

SPLIT_BYTES = 256 * 1024  # split at once, in a thread
WINDOW = "24h"
WINDOW_S = 24 * 3600


class MadeBefore(Exception):
    """The Idempotency-Key was used for the same batch before, so this upload is not needed."""

    def __init__(self, row: BatchRow) -> None:
        super().__init__(row["id"])
        self.row = row


def create_message_batch(service: Service, request: Request, owner: str) -> BatchRow:
    """The caller's key must have been checked before. Raises the refusals of a body, or StorageFull."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
    idempotency = idempotency_of(request, "anthropic")
    check_room(service, owner, request.content_length or 0)
    requests = MessageRequests()
    try:
        with storing(service, new_file_id()) as upload:
            block = bytearray()
            for piece in upload_blocks(request, MAX_BATCH_BYTES):
                block += piece
                if len(block) >= SPLIT_BYTES:
                    upload.write(in_python_thread(requests.feed, bytes(block)))
                    block.clear()
                if upload.num_bytes > MAX_BATCH_BYTES:
                    raise BodyTooLarge(f"The requests are larger than {MAX_BATCH_BYTES} bytes as the lines of a batch.")
            upload.write(in_python_thread(requests.feed, bytes(block)))
            row = new_row(owner, upload.file_id, requests)
            row |= {"idempotency": idempotency, "body_digest": requests.end()}
            upload.commit(file_record(row, upload.num_bytes), lambda connection: insert(connection, row))
    except MadeBefore as made:
        return made.row
    wake(service)
    return found_batch(service, owner, "anthropic", row["id"])


def new_row(owner: str, file_id: str, requests: MessageRequests) -> dict[str, Any]:
    now = time.time()
    return {
        "id": new_batch_id("msgbatch"),
        "owner": owner,
        "dialect": "anthropic",
        "endpoint": ENDPOINT,
        "input_file_id": file_id,
        "completion_window": WINDOW,
        "status": "validating",
        "output_ttl": KEPT_S,
        "created": now,
        "expires": now + WINDOW_S,
        "num_total": requests.num_requests,
        "model": requests.model or None,
    }


def file_record(row: dict[str, Any], num_bytes: int) -> FileRecord:
    """The requests as the dispatcher reads them."""
    return FileRecord(
        id=row["input_file_id"],
        owner=row["owner"],
        created=row["created"],
        expires=row["created"] + BATCH_TTL_S,
        num_bytes=num_bytes,
        filename=f"{row['id']}_requests.jsonl",
        purpose=MESSAGE_BATCH,
    )


def insert(connection: Connection, row: dict[str, Any]) -> None:
    """Raises MadeBefore, which rolls the file's record back too, or IdempotencyMismatch."""
    if (made := made_before(connection, row)) is not None:
        raise MadeBefore(made)
    if (made := added(connection, row))["id"] != row["id"]:
        raise MadeBefore(made)
