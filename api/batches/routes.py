"""/v1/batches: create, list, describe and cancel the caller's own batches; by an id an admin any."""

from typing import Any

from flask import Blueprint, request

from api.batches.objects import batch_object
from api.batches.stored import cancel, create, found_batch, page, visible_to
from api.gate.body import read_body
from api.jobs.service import Service
from api.request.pages import list_of, page_size
from api.schema.batch.create import BatchRequest
from api.schema.parse import parse
from common.errors import Conflict


def batch_routes(service: Service) -> Blueprint:
    routes = Blueprint("batches", __name__)

    @routes.post("/v1/batches")
    def make() -> dict[str, Any]:
        caller = service.keys.caller(request)
        return batch_object(create(service, request, caller.owner, parse(BatchRequest, read_body(request))))

    @routes.get("/v1/batches")
    def listed() -> dict[str, Any]:
        caller = service.keys.caller(request)
        limit, after = page_size(request), request.args.get("after", "")
        rows, has_more = page(service, caller.owner, "openai", limit=limit, after=after, cursor="after")
        return list_of([batch_object(row) for row in rows], has_more=has_more)

    @routes.get("/v1/batches/<batch_id>")
    def retrieve(batch_id: str) -> dict[str, Any]:
        return batch_object(found_batch(service, visible_to(service.keys.caller(request)), "openai", batch_id))

    @routes.post("/v1/batches/<batch_id>/cancel")
    def stop(batch_id: str) -> dict[str, Any]:
        row, is_cancelled = cancel(service, service.keys.caller(request), "openai", batch_id)
        if not is_cancelled:
            raise Conflict(f"Cannot cancel a batch with status '{row['status']}'.")
        return batch_object(row)

    return routes
