"""/api: chat, generate and embed as Ollama has them; what is served; and what only Ollama does, refused."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from api.gate.body import read_body
from api.jobs.call import Call
from api.jobs.dialects import OLLAMA
from api.jobs.service import Service
from api.jobs.serving import enqueue, fetch, respond, stored
from api.models.orders import is_shelved, order_model
from api.ollama.chunks import CHAT_LINES, GENERATE_LINES, loaded
from api.ollama.embeddings import EMBED, EMBEDDINGS, prepare_embed, prepare_embedding
from api.ollama.models import listed, running, shown
from api.ollama.prepare import prepare_chat, prepare_generate
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaModelRequest,
)
from api.schema.parse import parse
from common import __version__
from common.errors import MethodNotAllowed, Unavailable

VERSION = "0.14.0"  # of Ollama, whose clients ask for at least one that has what they use
LOAD_S = 300.0  # as Ollama waits for a model
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
            return jsonify(loading(call, is_chat=True))
        pending = enqueue(call, CHAT_LINES, prepare_chat(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.post("/api/generate")
    def ollama_generate() -> Response:
        call = Call.of(service, request, OllamaGenerateRequest)
        if not (call.body.prompt or call.body.suffix or call.body.images):
            return jsonify(loading(call, is_chat=False))
        pending = enqueue(call, GENERATE_LINES, prepare_generate(call))
        del call
        return respond(pending)

    @routes.get("/api/chat/<job_id>")
    def ollama_chat_again(job_id: str) -> Response:
        return fetch(service, request, stored(service, service.keys.caller(request), CHAT_LINES, job_id))

    @routes.get("/api/generate/<job_id>")
    def ollama_generate_again(job_id: str) -> Response:
        return fetch(service, request, stored(service, service.keys.caller(request), GENERATE_LINES, job_id))


def loading(call: Call[Any], *, is_chat: bool) -> dict[str, Any]:
    keep_or_load(call)
    return loaded(call.body.model, is_chat=is_chat, is_unloaded=call.body.keep_alive == 0)


def keep_or_load(call: Call[Any]) -> None:
    """A request without a question: loads its model and waits for that, or lets it go when it has nothing to do.

    A worker with one model keeps it. Raises ModelLoadFailed or Unavailable.
    """
    service, queue = call.service, call.encoder.card.queue
    if not is_shelved(service, queue):
        return
    keep_alive_s = call.body.keep_alive
    if keep_alive_s == 0:
        order_model(service, queue, "unload", keep_alive_s=0.0)
    elif not order_model(service, queue, "load", keep_alive_s=keep_alive_s, wait_s=LOAD_S):
        raise Unavailable(f"The model {queue!r} is not loaded yet: others have work; ask again, or send the question.")


def add_embedding(routes: Blueprint, service: Service) -> None:
    @routes.post("/api/embed")
    def ollama_embed() -> Response:
        call = Call.of(service, request, OllamaEmbedRequest, task="embed")
        if not call.body.input:
            keep_or_load(call)
            return jsonify({"model": call.body.model, "embeddings": []})
        pending = enqueue(call, EMBED, prepare_embed(call))
        del call
        return respond(pending)

    @routes.post("/api/embeddings")
    def ollama_embeddings() -> Response:
        call = Call.of(service, request, OllamaEmbeddingsRequest, task="embed")
        if not call.body.prompt:
            keep_or_load(call)
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
        cards, shelf = service.models.cards(), service.models.shelf
        entries = service.models.places({card.queue for _, card in cards})
        is_on_gpu = any(report.device.startswith("cuda") for report in shelf.reports())
        loaded = [(name, card, entry) for name, card in cards if (entry := entries[card.queue]).status == "loaded"]
        return {"models": [running(*each, is_on_gpu=is_on_gpu) for each in loaded]}

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
            "Models are chosen by the operator of this server (OMNI_MODEL, OMNI_MODELS); they cannot be created, "
            "copied, pushed or deleted through the API."
        )

    for method, name in MANAGED:
        routes.add_url_rule(f"/api/{name}", f"ollama_{name}", refuse, methods=[method])
