"""/v1/messages, Anthropic's form of a chat: create; fetch, resume; count tokens."""

from flask import Blueprint, Response, request

from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import enqueue, fetch, respond, stored
from api.messages.chunks import MESSAGE
from api.messages.prepare import count_tokens, prepare
from api.schema.messages import CountRequest, MessagesRequest


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

    return routes
