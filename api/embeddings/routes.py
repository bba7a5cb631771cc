"""/v1/embeddings: create."""

from flask import Blueprint, Response, request

from api.embeddings.chunks import EMBEDDING
from api.embeddings.prepare import prepare
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import enqueue, respond
from api.schema.embeddings import EmbeddingRequest


def embedding_routes(service: Service) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    @routes.post("/v1/embeddings")
    def create() -> Response:
        call = Call.of(service, request, EmbeddingRequest, task="embed")
        pending = enqueue(call, EMBEDDING, prepare(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    return routes
