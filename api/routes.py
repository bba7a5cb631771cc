"""Thin handlers of the reference API: parse, generate, answer."""

import time
from typing import Any

from flask import Blueprint, Response, jsonify, request

from api.answers import Answer
from api.auth import Caller
from api.body import read_body
from api.chat import prepare, submission
from api.chunks import ChatChunks, ChatCompletion, ChatForm
from api.generation import submit
from api.prompt import PromptEncoder
from api.schema import ChatRequest, parse
from api.service import Service
from common.errors import InvalidRequest, NotFound, OmniError
from common.store import JobView

ENDED = ("finished", "failed", "cancelled")


def chat_routes(service: Service) -> Blueprint:
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    def create() -> Any:
        caller = service.keys.caller(request)
        raw = read_body(request)
        body = parse(ChatRequest, raw)
        encoder = service.models.encoder(body.model)
        generation, form = prepare(body, encoder, caller)
        answer = Answer(service, request, form.id, is_background=bool(body.background))
        try:
            job = submission(generation, form, body, encoder, caller, request.headers, raw)
            job_id = submit(service.store, service.hub, job)
        except BaseException:
            answer.give_up()
            raise
        if job_id != form.id:
            answer.follow(job_id)
            form = form_of(owned_job(service, caller, job_id))
        return respond(answer, form, encoder, is_stream=bool(body.stream))

    @routes.get("/v1/chat/completions/<job_id>")
    def retrieve(job_id: str) -> Any:
        caller = service.keys.caller(request)
        job = owned_job(service, caller, job_id)
        form = form_of(job)
        encoder = service.models.encoder(form.model)
        is_stream = request.args.get("stream") == "true" or "text/event-stream" in request.headers.get("Accept", "")
        if not is_stream and job.state not in ENDED:
            return jsonify(pending(form, job)), 202
        after = starting_after()
        answer = Answer(service, request, job_id, is_background=True)
        answer.is_new = False
        if is_stream:
            return answer.stream(ChatChunks(form, encoder.token_bytes), after)
        return jsonify(answer.body(ChatCompletion(form, encoder.token_bytes)))

    return routes


def respond(
    answer: Answer, form: ChatForm, encoder: PromptEncoder, *, is_stream: bool
) -> Response | tuple[Response, int]:
    """Stream, or wait for the whole; a background job that is not streamed is answered at once."""
    if is_stream:
        return answer.stream(ChatChunks(form, encoder.token_bytes))
    if answer.is_background:
        answer.give_up()
        return jsonify(pending(form, None)), 202
    response = jsonify(answer.body(ChatCompletion(form, encoder.token_bytes)))
    response.headers["Omni-Job-Id"] = form.id
    return response


def pending(form: ChatForm, job: JobView | None) -> dict[str, Any]:
    """A completion that is not there yet: OpenAI's object without choices, and how far it is."""
    is_running = job is not None and job.state == "running"
    return {
        "id": form.id,
        "object": "chat.completion",
        "created": form.created,
        "model": form.model,
        "choices": [],
        "status": "in_progress" if is_running else "queued",
        "tokens": job.num_tokens if job is not None else 0,
    }


def owned_job(service: Service, caller: Caller, job_id: str) -> JobView:
    """Raises NotFound also for another key's job: ids belong to the key that made them."""
    job = service.store.job(job_id)
    if job is None or job.owner != caller.owner:
        hours = service.settings.result_ttl / 3600
        raise NotFound(
            f"There is no job {job_id[:64]!r} of this key; results are kept for {hours:g} h after their end."
        )
    return job


def form_of(job: JobView) -> ChatForm:
    if job.form.get("kind") != "chat":
        raise NotFound("This id is not a chat completion.")
    return ChatForm(**job.form)


def starting_after() -> int:
    """From where to resume: the query's `starting_after`, else the header that browsers send."""
    text = request.args.get("starting_after") or request.headers.get("Last-Event-ID") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest("'starting_after' must be the id of a chunk: a whole number.", param="starting_after")
    return int(text)


def service_routes(service: Service) -> Blueprint:
    """Health and models."""
    routes = Blueprint("service", __name__)

    @routes.get("/livez")
    def livez() -> Any:
        return {"status": "alive"}

    @routes.get("/health")
    @routes.get("/readyz")
    def health() -> Any:
        return health_of(service)

    @routes.get("/v1/models")
    def models() -> Any:
        service.keys.caller(request)
        return {"object": "list", "data": service.models.described()}

    @routes.get("/v1/models/<path:name>")
    def model(name: str) -> Any:
        service.keys.caller(request)
        for described in service.models.described():
            if described["id"] == name:
                return described
        service.models.encoder(name)
        raise OmniError("Model not ready", code="service_unavailable")

    return routes


def health_of(service: Service) -> tuple[dict[str, Any], int]:
    """The reference's four keys: what runs, or how far loading is (503)."""
    queue = service.settings.queue
    workers = [worker for worker in service.store.workers() if worker.get("queue") == queue]
    ready = [worker for worker in workers if worker.get("state") == "ready"]
    used = sum(int(worker.get("memory_used", 0)) for worker in ready if worker.get("device", "cpu") != "cpu")
    body: dict[str, Any] = {
        "status": "healthy" if ready else "loading",
        "model": queue,
        "gpu_memory_used": f"{round(used / 2**30)}GB",
        "uptime_seconds": round(max((time.time() - float(w["started"]) for w in ready if "started" in w), default=0)),
    }
    if not ready:
        body["progress"] = service.store.loading(queue) or {"what": "waiting for a worker"}
    return body, 200 if ready else 503
