"""/api: chat, generate and embed as Ollama has them; what is served; and what only Ollama does, refused."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from api.gate.body import read_body
from api.jobs.call import Call
from api.jobs.dialects import OLLAMA
from api.jobs.service import Service
from api.jobs.serving import enqueue, fetch, respond, stored
from api.ollama.chunks import CHAT_LINES, GENERATE_LINES, loaded
from api.ollama.embeddings import EMBED, EMBEDDINGS, prepare_embed, prepare_embedding
from api.ollama.models import listed, running, shown
from api.ollama.prepare import prepare_chat, prepare_generate
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaGenerating,
    OllamaModelRequest,
)
from api.schema.parse import parse
from common import __version__
from common.errors import MethodNotAllowed

VERSION = "0.14.0"  # of Ollama, whose clients ask for at least one that has what they use
MANAGED = (("POST", "create"), ("POST", "copy"), ("POST", "push"), ("DELETE", "delete"))


def ollama_routes(service: Service) -> Blueprint:
    routes = Blueprint("ollama", __name__)
    add_generating(routes, service)
    add_embedding(routes, service)
    add_models(routes, service)
    add_managing(routes, service)
    return routes


def add_generating(routes: Blueprint, service: Service) -> None:
    @routes.post("/api/chat")
    def ollama_chat() -> Response:
        call = Call.of(service, request, OllamaChatRequest)
        if not call.body.messages:
            return jsonify(loading(call.body, is_chat=True))
        pending = enqueue(call, CHAT_LINES, prepare_chat(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.post("/api/generate")
    def ollama_generate() -> Response:
        call = Call.of(service, request, OllamaGenerateRequest)
        if not (call.body.prompt or call.body.suffix or call.body.images):
            return jsonify(loading(call.body, is_chat=False))
        pending = enqueue(call, GENERATE_LINES, prepare_generate(call))
        del call
        return respond(pending)

    @routes.get("/api/chat/<job_id>")
    def ollama_chat_again(job_id: str) -> Response:
        return fetch(service, request, stored(service, service.keys.caller(request), CHAT_LINES, job_id))

    @routes.get("/api/generate/<job_id>")
    def ollama_generate_again(job_id: str) -> Response:
        return fetch(service, request, stored(service, service.keys.caller(request), GENERATE_LINES, job_id))


def loading(body: OllamaGenerating, *, is_chat: bool) -> dict[str, Any]:
    return loaded(body.model, is_chat=is_chat, is_unloaded=body.keep_alive in (0, "0", "0s"))


def add_embedding(routes: Blueprint, service: Service) -> None:
    @routes.post("/api/embed")
    def ollama_embed() -> Response:
        call = Call.of(service, request, OllamaEmbedRequest, task="embed")
        if not call.body.input:
            return jsonify({"model": call.body.model, "embeddings": []})
        pending = enqueue(call, EMBED, prepare_embed(call))
        del call
        return respond(pending)

    @routes.post("/api/embeddings")
    def ollama_embeddings() -> Response:
        call = Call.of(service, request, OllamaEmbeddingsRequest, task="embed")
        if not call.body.prompt:
            return jsonify({"embedding": []})
        pending = enqueue(call, EMBEDDINGS, prepare_embedding(call))
        del call
        return respond(pending)


def add_models(routes: Blueprint, service: Service) -> None:
    @routes.get("/api/version")
    def ollama_version() -> dict[str, str]:
        """Needs no key: clients look for a server with it."""
        return {"version": VERSION, "omni": __version__}

    @routes.get("/api/tags")
    def ollama_tags() -> dict[str, Any]:
        service.keys.caller(request)
        return {"models": [listed(name, card) for name, card in service.models.cards()]}

    @routes.get("/api/ps")
    def ollama_ps() -> dict[str, Any]:
        service.keys.caller(request)
        return {"models": [running(name, card) for name, card in service.models.cards()]}

    @routes.post("/api/show")
    def ollama_show() -> dict[str, Any]:
        body = asked_model()
        return shown(body.model, service.models.encoder(body.model, task=None))

    @routes.post("/api/pull")
    def ollama_pull() -> Response:
        """A served model is there already; any other one cannot be had."""
        body = asked_model()
        service.models.encoder(body.model, task=None)
        if body.stream is False:
            return jsonify({"status": "success"})
        states = ("pulling manifest", "verifying sha256 digest", "success")
        return Response([OLLAMA.frame({"status": state}) for state in states], headers=OLLAMA.headers)

    def asked_model() -> OllamaModelRequest:
        service.keys.caller(request)
        return parse(OllamaModelRequest, read_body(request))


def add_managing(routes: Blueprint, service: Service) -> None:
    def refuse() -> Response:
        service.keys.caller(request)
        raise MethodNotAllowed(
            "Models are chosen by the operator of this server (OMNI_MODEL); they cannot be created, copied, pushed or "
            "deleted through the API."
        )

    for method, name in MANAGED:
        routes.add_url_rule(f"/api/{name}", f"ollama_{name}", refuse, methods=[method])
