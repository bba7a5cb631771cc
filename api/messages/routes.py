"""/v1/messages, Anthropic's form of a chat: create; fetch, resume; count tokens."""

from typing import Any

from flask import Blueprint, Response, request

from api.gate.errors import error_headers, messages_error, status_of
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import enqueue, fetch, respond, stored
from api.messages.chunks import MESSAGE
from api.messages.prepare import count_tokens, prepare
from api.schema.messages import CountRequest, MessagesRequest
from common.errors import OmniError


def message_routes(service: Service) -> Blueprint:
    routes = Blueprint("messages", __name__)

    @routes.post("/v1/messages")
    def create() -> Response:
        call = Call.of(service, request, MessagesRequest)
        pending = enqueue(call, MESSAGE, prepare(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.get("/v1/messages/<message_id>")
    def retrieve(message_id: str) -> Response:
        caller = service.keys.caller(request)
        return fetch(service, request, stored(service, caller, MESSAGE, message_id))

    @routes.post("/v1/messages/count_tokens")
    def count() -> dict[str, int]:
        return {"input_tokens": count_tokens(Call.of(service, request, CountRequest))}

    @routes.errorhandler(OmniError)
    def refused(error: OmniError) -> tuple[dict[str, Any], int, dict[str, str]]:
        return messages_error(error), status_of(error.code), error_headers(error)

    return routes
