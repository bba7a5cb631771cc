"""Thin handlers of the reference API: parse, generate, answer."""

import time
from typing import Any

from flask import Blueprint, request

from api.chat.chunks import ChatForm
from api.chat.prepare import chat_form, prepare
from api.gate.body import read_body
from api.jobs.json_answers import about_job
from api.jobs.service import Service
from api.jobs.serving import (
    ENDED,
    Waiting,
    Wanted,
    asks_for_ids,
    fetched,
    form_of,
    owned_job,
    put_in_line,
    starting_after,
    wanted,
    wants_stream,
)
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import OmniError
from common.redis.job_view import JobView
from common.redis.memory import memory_of


def chat_routes(service: Service) -> Blueprint:
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    def create() -> Any:
        waiting, body = asked(service)
        if body.stream:
            return waiting.stream(with_ids=asks_for_ids(request, body.stream_options))
        if body.background:
            waiting.answer.give_up()
            return about_job(waiting.form.id, pending(waiting.form, None), 202)
        return about_job(waiting.form.id, waiting.body())

    @routes.get("/v1/chat/completions/<job_id>")
    def retrieve(job_id: str) -> Any:
        job = owned_job(service, service.keys.caller(request), job_id)
        if wants_stream(request):
            after = starting_after(request)
            return fetched(service, request, job, "chat").stream(after=after, with_ids=True)
        if job.state not in ENDED:
            return about_job(job.id, pending(form_of(job, "chat"), job), 202)
        return about_job(job.id, fetched(service, request, job, "chat").body())

    return routes


def asked(service: Service) -> tuple[Waiting, Wanted]:
    """Put what was sent into the line."""
    caller = service.keys.caller(request)
    raw = read_body(request)
    body = parse(ChatRequest, raw)
    encoder = service.models.encoder(body.model)
    prepared = prepare(body, encoder, service.grammars)
    form = chat_form(body, prepared)
    return put_in_line(service, request, caller, body, prepared, form, encoder, raw), wanted(body)


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
    workers = [worker for worker in service.store.directory.workers() if worker.get("queue") == queue]
    ready = [worker for worker in workers if worker.get("state") == "ready"]
    is_away = not ready and any(worker.get("state") == "away" for worker in workers)
    used = sum(int(worker.get("memory_used", 0)) for worker in ready if worker.get("device", "").startswith("cuda"))
    body: dict[str, Any] = {
        "status": "healthy" if ready else "engine away" if is_away else "loading",
        "model": queue,
        "gpu_memory_used": f"{round(used / 2**30)}GB",
        "uptime_seconds": round(max((time.time() - float(w["started"]) for w in ready if "started" in w), default=0)),
    }
    if fault := memory_of(service.store.redis).fault:
        return body | {"status": "unhealthy", "progress": {"what": fault}}, 503
    if is_away:
        body["progress"] = {"what": "waiting for the engine behind the worker; jobs are kept and go on"}
    elif not ready:
        body["progress"] = service.store.directory.loading(queue) or {"what": "waiting for a worker"}
    return body, 200 if ready else 503
