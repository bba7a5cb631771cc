"""/v1/responses: create; fetch, resume; list input items, cancel, delete; count tokens."""

import time
from typing import Any

from flask import Blueprint, Response, request

from api.jobs.call import Call
from api.jobs.routes import page_size
from api.jobs.service import Service
from api.jobs.serving import ENDED, Delivery, StoredAnswer, enqueue, fetch, identify, reopen, respond, respond_early
from api.responses.chunks import RESPONSE, ResponsesMeta
from api.responses.history import stored_response
from api.responses.prepare import count_tokens, prepare
from api.schema.responses import ResponsesRequest
from common.errors import Conflict, InvalidRequest

END_TRIES = 20  # a worker ends a cancelled job within a step
END_PAUSE_S = 0.1


def response_routes(service: Service) -> Blueprint:
    routes = Blueprint("responses", __name__)
    add_new(routes, service)
    add_stored(routes, service)
    return routes


def add_new(routes: Blueprint, service: Service) -> None:
    """Routes that take a request body."""

    @routes.post("/v1/responses")
    def create() -> Response:
        call = Call.of(service, request, ResponsesRequest)
        pending = enqueue(call, RESPONSE, prepare(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.post("/v1/responses/input_tokens")
    def input_tokens() -> dict[str, Any]:
        call = Call.of(service, request, ResponsesRequest)
        return {"object": "response.input_tokens", "input_tokens": count_tokens(call)}


def add_stored(routes: Blueprint, service: Service) -> None:
    """Routes of an earlier response."""

    def found(response_id: str) -> StoredAnswer[ResponsesMeta]:
        return stored_response(service, service.keys.caller(request), response_id)

    @routes.get("/v1/responses/<response_id>")
    def retrieve(response_id: str) -> Response:
        return fetch(service, request, found(response_id))

    @routes.get("/v1/responses/<response_id>/input_items")
    def input_items(response_id: str) -> dict[str, Any]:
        return page_of(found(response_id).meta)

    @routes.post("/v1/responses/<response_id>/cancel")
    def cancel(response_id: str) -> Response:
        found(response_id)
        service.store.cancel(response_id)
        for _ in range(END_TRIES):
            [status] = service.store.poll([response_id])
            if status.state in ENDED:
                break
            time.sleep(END_PAUSE_S)
        response = found(response_id)
        identify(response.meta)
        if not response.has_ended:
            return respond_early(RESPONSE, response.meta, response.progress)
        return respond(reopen(service, request, response, Delivery(failure_is_body=True)))

    @routes.delete("/v1/responses/<response_id>")
    def delete(response_id: str) -> dict[str, Any]:
        found(response_id)
        service.store.cancel(response_id)
        for _ in range(END_TRIES):
            if service.store.forget(response_id):
                return {"id": response_id, "object": "response.deleted", "deleted": True}
            time.sleep(END_PAUSE_S)
        raise Conflict("The response is still being cancelled; try again.")


def page_of(meta: ResponsesMeta) -> dict[str, Any]:
    """GET .../input_items: newest first unless asked otherwise, by pages."""
    items = [_listed(item) for item in [*meta.context, *meta.input]]
    if request.args.get("order", "desc") != "asc":
        items.reverse()
    ids = [item.get("id") for item in items]
    after = request.args.get("after")
    if after is not None and after not in ids:
        raise InvalidRequest("'after' is not the id of an item of this response.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    page = items[start : start + page_size(request)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": start + len(page) < len(items),
    }


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    """With the content of a message as a list of parts."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": [{"type": kind, "text": item["content"]}]}
    return item
