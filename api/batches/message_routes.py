"""/v1/messages/batches, Anthropic's form of a batch: create, list, describe, read the results, cancel, delete."""

import time
from typing import Any

from flask import Blueprint, Response, request

from api.batches.message_create import create_message_batch
from api.batches.objects import message_batch_object
from api.batches.stored import Dialect, cancel, delete, found_batch, has_dispatcher, page, visible_to
from api.files.content import content
from api.files.stored import found_file
from api.jobs.service import Service
from api.request.pages import page_size
from common.errors import InvalidRequest, NotFound
from common.records.batches import BatchRow
from common.records.files import OPEN

MAX_PAGE = 1000
DIALECT: Dialect = "anthropic"
LINES = "application/x-jsonl"
PATH = "/v1/messages/batches"


def message_batch_routes(service: Service) -> Blueprint:
    routes = Blueprint("message_batches", __name__)

    def found(batch_id: str) -> BatchRow:
        return found_batch(service, service.keys.caller(request).owner, DIALECT, batch_id)

    @routes.post(PATH)
    def make() -> dict[str, Any]:
        caller = service.keys.caller(request)
        return shown(service, create_message_batch(service, request, caller.owner))

    @routes.get(PATH)
    def listed() -> dict[str, Any]:
        return message_page(service, service.keys.caller(request).owner)

    @routes.get(f"{PATH}/<batch_id>")
    def retrieve(batch_id: str) -> dict[str, Any]:
        return shown(service, found_batch(service, visible_to(service.keys.caller(request)), DIALECT, batch_id))

    @routes.get(f"{PATH}/<batch_id>/results")
    def results(batch_id: str) -> Response:
        row = found(batch_id)
        if row["status"] in OPEN or row["output_file_id"] is None:
            raise NotFound(f"The batch {batch_id} has no results yet; its 'results_url' says when it has.")
        return content(service, request, found_file(service, row["owner"], row["output_file_id"]), LINES)

    @routes.post(f"{PATH}/<batch_id>/cancel")
    def stop(batch_id: str) -> dict[str, Any]:
        row, is_cancelled = cancel(service, service.keys.caller(request), DIALECT, batch_id)
        if not is_cancelled and row["status"] not in OPEN:
            raise InvalidRequest(f"The batch {batch_id} has ended, so it cannot be canceled.")
        return shown(service, row)

    @routes.delete(f"{PATH}/<batch_id>")
    def remove(batch_id: str) -> dict[str, Any]:
        if not delete(service, found(batch_id)):
            raise InvalidRequest(f"The batch {batch_id} has not ended: cancel it first, then delete it.")
        return {"id": batch_id, "type": "message_batch_deleted"}

    return routes


def shown(service: Service, row: BatchRow) -> dict[str, Any]:
    is_dispatched = has_dispatcher(service, [row])
    return message_batch_object(row, request.url_root, time.time(), has_dispatcher=is_dispatched)


def message_page(service: Service, owner: str) -> dict[str, Any]:
    """Newest first. Raises InvalidRequest."""
    after, before = request.args.get("after_id", ""), request.args.get("before_id", "")
    if after and before:
        raise InvalidRequest("Send 'after_id' or 'before_id', not both.", param="before_id")
    limit = page_size(request, most=MAX_PAGE)
    cursor = "before_id" if before else "after_id"
    rows, has_more = page(service, owner, DIALECT, limit=limit, after=after, before=before, cursor=cursor)
    is_dispatched, now = has_dispatcher(service, rows), time.time()
    shown_rows = [message_batch_object(row, request.url_root, now, has_dispatcher=is_dispatched) for row in rows]
    return {
        "data": shown_rows,
        "has_more": has_more,
        "first_id": rows[0]["id"] if rows else None,
        "last_id": rows[-1]["id"] if rows else None,
    }
