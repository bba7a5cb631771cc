"""/v1/batches: create, list, describe, cancel and delete the caller's own; an admin describes and cancels any."""

from typing import Any

from flask import Blueprint, request

from api.batches.objects import batch_object
from api.batches.stored import cancel, create, delete, found_batch, has_dispatcher, page, visible_to
from api.gate.body import read_body
from api.jobs.service import Service
from api.request.pages import list_of, page_size
from api.schema.batch.create import BatchRequest
from api.schema.parse import parse
from common.errors import Conflict
from common.records.batches import BatchRow


def batch_routes(service: Service) -> Blueprint:
    routes = Blueprint("batches", __name__)

    def shown(row: BatchRow) -> dict[str, Any]:
        return batch_object(row, has_dispatcher=has_dispatcher(service, [row]))

    @routes.post("/v1/batches")
    def make() -> dict[str, Any]:
        caller = service.keys.caller(request)
        return shown(create(service, request, caller.owner, parse(BatchRequest, read_body(request))))

    @routes.get("/v1/batches")
    def listed() -> dict[str, Any]:
        caller = service.keys.caller(request)
        limit, after = page_size(request), request.args.get("after", "")
        rows, has_more = page(service, caller.owner, "openai", limit=limit, after=after, cursor="after")
        is_dispatched = has_dispatcher(service, rows)
        return list_of([batch_object(row, has_dispatcher=is_dispatched) for row in rows], has_more=has_more)

    @routes.get("/v1/batches/<batch_id>")
    def retrieve(batch_id: str) -> dict[str, Any]:
        return shown(found_batch(service, visible_to(service.keys.caller(request)), "openai", batch_id))

    @routes.post("/v1/batches/<batch_id>/cancel")
    def stop(batch_id: str) -> dict[str, Any]:
        row, is_cancelled = cancel(service, service.keys.caller(request), "openai", batch_id)
        if not is_cancelled:
            raise Conflict(f"Cannot cancel a batch with status '{row['status']}'.")
        return shown(row)

    @routes.delete("/v1/batches/<batch_id>")
    def remove(batch_id: str) -> dict[str, Any]:
        row = found_batch(service, service.keys.caller(request).owner, "openai", batch_id)
        if not delete(service, row):
            raise Conflict(f"The batch {batch_id} has not ended: cancel it first, then delete it.")
        return {"id": batch_id, "object": "batch", "deleted": True}

    return routes
