"""/v1/rerank and /v1/score: create."""

from flask import Blueprint, Response, request

from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import enqueue, respond
from api.schema.embeddings import RerankRequest, ScoreRequest
from api.scores.chunks import SCORE, rerank_endpoint
from api.scores.prepare import prepare_rerank, prepare_score, texts_of

COHERES_PATH = "/v2/rerank"  # its answers have no documents unless they are asked for; Jina's and vLLM's have


def score_routes(service: Service) -> Blueprint:
    routes = Blueprint("scores", __name__)

    @routes.post("/v1/rerank")
    @routes.post("/rerank")
    @routes.post(COHERES_PATH)
    def rerank() -> Response:
        call = Call.of(service, request, RerankRequest, task="score")
        given = call.body.return_documents
        is_shown = request.path != COHERES_PATH if given is None else given
        endpoint = rerank_endpoint(texts_of(call.body) if is_shown else None)
        pending = enqueue(call, endpoint, prepare_rerank(call))
        del call  # frees the body while the answer is waited for
        return respond(pending)

    @routes.post("/v1/score")
    @routes.post("/score")
    def score() -> Response:
        call = Call.of(service, request, ScoreRequest, task="score")
        pending = enqueue(call, SCORE, prepare_score(call))
        del call
        return respond(pending)

    return routes
