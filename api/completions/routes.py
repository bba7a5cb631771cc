"""/v1/completions: create; fetch, resume, cancel."""

from flask import Blueprint, Response, request

from api.completions.chunks import COMPLETION
from api.completions.prepare import prepare
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import cancel as cancel_answer
from api.jobs.serving import enqueue, fetch, respond, stored
from api.schema.completions import CompletionRequest


def completion_routes(service: Service) -> Blueprint:
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    def create() -> Response:
        call = Call.of(service, request, CompletionRequest)
        pending = enqueue(call, COMPLETION, prepare(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.get("/v1/completions/<answer_id>")
    def retrieve(answer_id: str) -> Response:
        caller = service.keys.caller(request)
        return fetch(service, request, stored(service, caller, COMPLETION, answer_id))

    @routes.post("/v1/completions/<answer_id>/cancel")
    def cancel(answer_id: str) -> Response:
        caller = service.keys.caller(request)
        return cancel_answer(service, request, lambda: stored(service, caller, COMPLETION, answer_id))

    return routes
