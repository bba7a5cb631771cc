"""The batches of a key, in both dialects: made, found, listed, cancelled. SQL waits in threads."""

import hashlib
import logging
import time
from collections.abc import Iterable
from typing import Any, Literal

import orjson
from flask import Request
from redis.exceptions import RedisError

from api.files.receive import check_share
from api.gate.auth import Caller
from api.jobs.service import Service
from api.process.offload import in_file_thread, in_store_thread
from api.request.submission import MAX_IDEMPOTENCY_KEY
from api.schema.batch.create import BatchRequest, window_s
from common.errors import IdempotencyMismatch, InvalidRequest, NotFound, Overloaded
from common.records.batches import (
    BatchRow,
    add_batch,
    batch_by_key,
    batch_of,
    batches_page,
    cancel_batch,
    delete_batch,
    new_batch_id,
    num_open,
)
from common.records.database import Connection
from common.records.files import BATCH, OPEN, bytes_kept, delete_file, file_of
from common.redis.dispatch.wake import dispatcher_lives, wake_dispatcher

logger = logging.getLogger("omni.api")

Dialect = Literal["openai", "anthropic"]
MAX_OPEN = 100  # batches of a key that have not ended: their results take room before they are files
CANCELLED = ("cancelling", "cancelled")


def idempotency_of(request: Request, dialect: Dialect) -> str | None:
    """The digest of the Idempotency-Key, None without one. Raises InvalidRequest."""
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"The Idempotency-Key may have {MAX_IDEMPOTENCY_KEY} characters at most.")
    return hashlib.sha256(f"{dialect}:{key}".encode()).hexdigest() if key else None


def create(service: Service, request: Request, owner: str, body: BatchRequest) -> BatchRow:
    """Raises InvalidRequest or IdempotencyMismatch."""
    now = time.time()
    lifetime = body.output_expires_after
    row = {
        "id": new_batch_id("batch"),
        "owner": owner,
        "dialect": "openai",
        "endpoint": body.endpoint,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "metadata": body.metadata,
        "output_ttl": lifetime.seconds if lifetime is not None else None,
        "idempotency": idempotency_of(request, "openai"),
        "body_digest": hashlib.sha256(
            orjson.dumps(body.model_dump(exclude_none=True), option=orjson.OPT_SORT_KEYS)
        ).hexdigest(),
        "created": now,
        "expires": now + window_s(body.completion_window),
    }

    def insert() -> BatchRow:
        with service.records.begin() as connection:
            if (made := made_before(connection, row)) is not None:
                return made
            check_input(connection, owner, body.input_file_id, now)
            check_share(bytes_kept(connection, owner))
            return added(connection, row)

    batch = in_store_thread(insert)
    wake(service)
    return batch


def made_before(connection: Connection, row: dict[str, Any]) -> BatchRow | None:
    """The batch of the same Idempotency-Key. Raises IdempotencyMismatch when it was made of another body."""
    if row["idempotency"] is None:
        return None
    made = batch_by_key(connection, row["owner"], row["idempotency"])
    if made is not None and made["body_digest"] != row["body_digest"]:
        raise IdempotencyMismatch("This Idempotency-Key was used for a batch with another body.")
    return made


def added(connection: Connection, row: dict[str, Any]) -> BatchRow:
    """The new row, or that of another request with the same key, which was inserted just before. Raises Overloaded."""
    if num_open(connection, row["owner"]) >= MAX_OPEN:
        raise Overloaded(
            f"This key has {MAX_OPEN} batches that have not ended, which is the most that it may have: wait for one, "
            "or cancel it.",
            retry_after_s=60,
        )
    add_batch(connection, row)
    found = batch_of(connection, row["owner"], row["dialect"], row["id"]) or made_before(connection, row)
    assert found is not None
    return found


def check_input(connection: Connection, owner: str, file_id: str, now: float) -> None:
    """Keeps the file from being deleted until the batch's row is there. Raises InvalidRequest."""
    record = file_of(connection, owner, file_id, now, locked=True)
    if record is None:
        raise InvalidRequest(f"No such File object: {file_id[:64]}", param="input_file_id")
    if record.purpose != BATCH:
        raise InvalidRequest(
            f"The file {file_id} has the purpose '{record.purpose}'; a batch reads one of purpose 'batch'.",
            param="input_file_id",
        )


def visible_to(caller: Caller) -> str | None:
    """Whose batches a caller may look at and cancel by their ids: None for all, as an admin may each job."""
    return None if caller.is_admin else caller.owner


def found_batch(service: Service, owner: str | None, dialect: Dialect, batch_id: str) -> BatchRow:
    """Raises NotFound also for another key's batch. `owner`: None for any."""

    def find() -> BatchRow | None:
        with service.records.read() as connection:
            return batch_of(connection, owner, dialect, batch_id)

    row = in_store_thread(find)
    if row is None:
        raise NotFound(f"No batch found with id '{batch_id[:64]}'.", param="batch_id")
    return row


def page(
    service: Service, owner: str, dialect: Dialect, *, limit: int, after: str = "", before: str = "", cursor: str
) -> tuple[list[BatchRow], bool]:
    """Raises InvalidRequest that names the query's `cursor` if there is no such batch."""

    def find() -> tuple[list[BatchRow], bool] | None:
        with service.records.read() as connection:
            return batches_page(connection, owner, dialect, limit=limit, after=after, before=before)

    if (found := in_store_thread(find)) is None:
        raise InvalidRequest(f"'{cursor}' is not the id of a batch of this key.", param=cursor)
    return found


def cancel(service: Service, caller: Caller, dialect: Dialect, batch_id: str) -> tuple[BatchRow, bool]:
    """The batch, and whether it is cancelled now or was before. Raises NotFound."""
    owner = found_batch(service, visible_to(caller), dialect, batch_id)["owner"]

    def change() -> bool:
        with service.records.begin() as connection:
            return cancel_batch(connection, batch_id, time.time())

    with service.audit.change(caller, "batch.cancel", batch_id, of=owner):
        if in_store_thread(change):
            wake(service)
    row = found_batch(service, owner, dialect, batch_id)
    return row, row["status"] in CANCELLED


def has_dispatcher(service: Service, rows: Iterable[BatchRow]) -> bool:
    """Whether these batches are looked after; True where none needs it, or Redis is away."""
    if all(row["status"] not in OPEN for row in rows):
        return True
    try:
        return dispatcher_lives(service.store.redis)
    except RedisError:
        return True


def wake(service: Service) -> None:
    """The dispatcher finds the batch within a second anyway."""
    try:
        wake_dispatcher(service.store.redis)
    except RedisError as error:
        logger.warning("cannot wake the dispatcher (%s)", type(error).__name__)


def delete(service: Service, row: BatchRow) -> bool:
    """The batch with the files that it has made; of OpenAI's the input was uploaded for itself, and stays. False if
    it has not ended."""
    own_input = row["input_file_id"] if row["dialect"] == "anthropic" else None
    ids = [file_id for file_id in (own_input, row["output_file_id"], row["error_file_id"]) if file_id]

    def remove() -> bool:
        with service.records.begin() as connection:
            if not delete_batch(connection, row["id"]):
                return False
            for file_id in ids:
                delete_file(connection, file_id)
        return True

    if not in_store_thread(remove):
        return False
    for file_id in ids:
        in_file_thread(service.files.delete, file_id)
    return True
