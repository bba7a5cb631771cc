"""/v1/chat/completions: create; fetch, resume, cancel; list, change and delete the stored ones."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from api.chat.chunks import CHAT, ChatMeta
from api.chat.prepare import prepare
from api.chat.stored import ListQuery, completions, kept_chat, messages, stored_chat
from api.gate.body import read_body
from api.jobs.archive.changes import change_metadata, remove_answer
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import StoredAnswer, enqueue, fetch, reopen, respond
from api.jobs.serving import cancel as cancel_answer
from api.schema.base import MetadataChange
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import NotFound


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
        return fetch(service, request, stored_chat(service, service.keys.caller(request), job_id))

    @routes.post("/v1/chat/completions/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        caller = service.keys.caller(request)
        return cancel_answer(service, request, lambda: stored_chat(service, caller, job_id))

    add_stored(routes, service)
    return routes


def add_stored(routes: Blueprint, service: Service) -> None:
    """Routes of completions that were sent with `store: true`."""

    def kept(job_id: str) -> StoredAnswer[ChatMeta]:
        return kept_chat(service, service.keys.caller(request), job_id)

    @routes.get("/v1/chat/completions")
    def listed() -> dict[str, Any]:
        caller = service.keys.caller(request)
        return completions(service, request, caller, ListQuery.of(request))

    @routes.get("/v1/chat/completions/<job_id>/messages")
    def sent_messages(job_id: str) -> dict[str, Any]:
        return messages(kept(job_id), request)

    @routes.post("/v1/chat/completions/<job_id>")
    def update(job_id: str) -> Response:
        found = kept(job_id)
        change_metadata(service, found.jobs[0], parse(MetadataChange, read_body(request)).metadata)
        return jsonify(reopen(service, request, kept(job_id)).body())

    @routes.delete("/v1/chat/completions/<job_id>")
    def delete(job_id: str) -> dict[str, Any]:
        found = stored_chat(service, service.keys.caller(request), job_id)
        if not found.meta.is_stored:
            raise NotFound("This chat completion was not stored: it was not sent with 'store': true.")
        remove_answer(service, found.jobs[0])
        return {"id": job_id, "object": "chat.completion.deleted", "deleted": True}
