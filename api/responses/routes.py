"""/v1/responses: create; fetch, resume; list input items, cancel, delete; count tokens."""

from typing import Any

from flask import Blueprint, Response, request

from api.jobs.archive.changes import remove_answer
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import StoredAnswer, fetch, respond
from api.jobs.serving import cancel as cancel_answer
from api.responses.chunks import ResponsesMeta
from api.responses.conversations import enqueue_turn, turn_to_count
from api.responses.history import stored_response
from api.responses.listing import item_page
from api.responses.prepare import count_tokens
from api.schema.responses import ResponsesRequest


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
        pending = enqueue_turn(call)
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.post("/v1/responses/input_tokens")
    def input_tokens() -> dict[str, Any]:
        call = Call.of(service, request, ResponsesRequest)
        return {"object": "response.input_tokens", "input_tokens": count_tokens(call, turn_to_count(call))}


def add_stored(routes: Blueprint, service: Service) -> None:
    """Routes of an earlier response."""

    def found(response_id: str) -> StoredAnswer[ResponsesMeta]:
        return stored_response(service, service.keys.caller(request), response_id)

    @routes.get("/v1/responses/<response_id>")
    def retrieve(response_id: str) -> Response:
        return fetch(service, request, found(response_id))

    @routes.get("/v1/responses/<response_id>/input_items")
    def input_items(response_id: str) -> dict[str, Any]:
        meta = found(response_id).meta
        return item_page([*meta.context, *meta.input], request, "response")

    @routes.post("/v1/responses/<response_id>/cancel")
    def cancel(response_id: str) -> Response:
        return cancel_answer(service, request, lambda: found(response_id))

    @routes.delete("/v1/responses/<response_id>")
    def delete(response_id: str) -> dict[str, Any]:
        response = found(response_id)
        remove_answer(service, response.jobs[0], is_held=bool(response.meta.conversation))
        return {"id": response_id, "object": "response.deleted", "deleted": True}
