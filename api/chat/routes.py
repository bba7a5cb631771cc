"""/v1/chat/completions: create; fetch, resume."""

from flask import Blueprint, Response, request

from api.chat.chunks import CHAT
from api.chat.prepare import prepare
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import enqueue, fetch, respond, stored
from api.schema.chat import ChatRequest


def chat_routes(service: Service) -> Blueprint:
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    def create() -> Response:
        call = Call.of(service, request, ChatRequest)
        pending = enqueue(call, CHAT, prepare(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.get("/v1/chat/completions/<job_id>")
    def retrieve(job_id: str) -> Response:
        caller = service.keys.caller(request)
        return fetch(service, request, stored(service, caller, CHAT, job_id))

    return routes
