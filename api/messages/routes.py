"""Thin handlers of /v1/messages, Anthropic's form of a chat."""

import time
from typing import Any

from flask import Blueprint, request

from api.chat.prepare import new_id, prepare
from api.gate.body import read_body
from api.gate.errors import error_headers, messages_error, status_of
from api.jobs.json_answers import about_job
from api.jobs.service import Service
from api.jobs.serving import (
    Waiting,
    Wanted,
    asks_for_ids,
    fetched,
    owned_job,
    put_in_line,
    starting_after,
    wanted,
    wants_stream,
)
from api.messages.chunks import MessageForm
from api.messages.prepare import chat_request
from api.process.offload import offload
from api.schema.messages import CountRequest, MessagesRequest
from api.schema.parse import parse
from common.errors import OmniError


def message_routes(service: Service) -> Blueprint:
    routes = Blueprint("messages", __name__)

    @routes.post("/v1/messages")
    def create() -> Any:
        waiting, body = asked(service)
        if body.stream:
            return waiting.stream(with_ids=asks_for_ids(request, body.stream_options))
        return about_job(waiting.form.id, waiting.body())

    @routes.get("/v1/messages/<message_id>")
    def retrieve(message_id: str) -> Any:
        job = owned_job(service, service.keys.caller(request), message_id)
        after = starting_after(request)
        waiting = fetched(service, request, job, "message")
        if wants_stream(request):
            return waiting.stream(after=after, with_ids=True)
        return about_job(job.id, waiting.body())

    @routes.post("/v1/messages/count_tokens")
    def count_tokens() -> Any:
        service.keys.caller(request)
        body = parse(CountRequest, read_body(request))
        prepared = prepare(offload(chat_request, body), service.models.encoder(body.model), service.grammars)
        return {"input_tokens": len(prepared.prompt.ids)}

    @routes.errorhandler(OmniError)
    def refused(error: OmniError) -> Any:
        return messages_error(error), status_of(error.code), error_headers(error)

    return routes


def asked(service: Service) -> tuple[Waiting, Wanted]:
    """Put what was sent into the line."""
    caller = service.keys.caller(request)
    raw = read_body(request)
    body = parse(MessagesRequest, raw)
    chat = offload(chat_request, body)
    encoder = service.models.encoder(body.model)
    prepared = prepare(chat, encoder, service.grammars)
    form = MessageForm(
        id=new_id("msg_"),
        model=body.model,
        created=int(time.time()),
        num_prompt_tokens=len(prepared.prompt.ids),
        stop=body.stop_sequences or [],
        reading=prepared.reading,
    )
    return put_in_line(service, request, caller, chat, prepared, form, encoder, raw), wanted(body)
