"""create_app(settings): the Flask application with its routes and error handlers."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flask import Flask, g, request
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as MethodNotAllowedError
from werkzeug.exceptions import NotFound as NotFoundError

from api.batches.message_routes import message_batch_routes
from api.batches.routes import batch_routes
from api.chat.routes import chat_routes
from api.completions.routes import completion_routes
from api.embeddings.routes import embedding_routes
from api.files.routes import file_routes
from api.gate.body import MAX_BODY_BYTES, install_draining
from api.gate.cors import install_cors
from api.gate.errors import error_answer, no_route
from api.gate.guard import install_guard
from api.gate.tracing import install_traces
from api.jobs.answers import FAULT
from api.jobs.events import ClientGone
from api.jobs.generation import unavailable
from api.jobs.json_answers import install_json
from api.jobs.routes import job_routes
from api.jobs.service import build_service
from api.messages.routes import message_routes
from api.models.routes import model_routes
from api.ollama.routes import ollama_routes
from api.operator.adapters import adapter_routes
from api.operator.audit_routes import audit_routes
from api.operator.board import board_routes
from api.operator.health import health_routes
from api.operator.metrics import metric_routes
from api.operator.openapi.document import openapi_routes
from api.operator.pages import page_routes
from api.operator.request_log import install_request_log
from api.responses.conversation_routes import conversation_routes
from api.responses.routes import response_routes
from api.scores.routes import score_routes
from api.tokens import token_routes
from api.usage.routes import usage_routes
from api.webhooks.routes import webhook_routes
from common.errors import BodyTooLarge, InvalidRequest, MethodNotAllowed, NotFound, OmniError, Unavailable
from common.records.database import NotStorable, StoreError, is_away
from common.settings import Settings

logger = logging.getLogger("omni.api")

HTTP_ERRORS: Mapping[int | None, type[OmniError]] = MappingProxyType(
    {404: NotFound, 405: MethodNotAllowed, 413: BodyTooLarge}
)  # of Flask's own errors


def create_app(settings: Settings) -> Flask:
    """The application of one API process; api/server.py starts its service after the fork."""
    app = Flask("api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1  # werkzeug refuses a body as soon as it is this long
    install_json(app)
    service = build_service(settings)
    app.extensions["omni"] = service
    install_draining(app)
    install_guard(app, settings)
    service.spare.install(app)
    install_request_log(app, service)
    install_traces(app, settings)
    install_cors(app, settings)
    for routes in (
        chat_routes,
        completion_routes,
        response_routes,
        conversation_routes,
        message_routes,
        ollama_routes,
        embedding_routes,
        score_routes,
        token_routes,
        job_routes,
        file_routes,
        batch_routes,
        message_batch_routes,
        usage_routes,
        health_routes,
        model_routes,
        adapter_routes,
        webhook_routes,
        audit_routes,
        board_routes,
        metric_routes,
    ):
        app.register_blueprint(routes(service))
    app.register_blueprint(page_routes())
    app.register_blueprint(openapi_routes())
    install_errors(app)
    return app


def install_errors(app: Flask) -> None:
    """Answer every failure with the error object of the path's API: OpenAI's, Anthropic's or Ollama's."""

    @app.errorhandler(OmniError)
    def known(error: OmniError) -> tuple[dict[str, Any], int, dict[str, str]]:
        is_anthropics = "anthropic-version" in request.headers
        request_id = str(g.get("request_id", ""))
        return error_answer(error, request.path, request_id=request_id, is_anthropics=is_anthropics)

    @app.errorhandler(RedisError)
    def redis_failed(error: RedisError) -> tuple[dict[str, Any], int, dict[str, str]]:
        return known(unavailable(error))

    @app.errorhandler(NotStorable)
    def not_storable(_: NotStorable) -> tuple[dict[str, Any], int, dict[str, str]]:
        return known(InvalidRequest("The request has a text that the store cannot hold, such as one with NUL in it."))

    @app.errorhandler(StoreError)
    def store_failed(error: StoreError) -> tuple[dict[str, Any], int, dict[str, str]]:
        if not is_away(error):
            return unknown(error)
        logger.warning("the store does not answer (%s)", type(error).__name__)
        return known(Unavailable("The store does not answer (OMNI_STORE_URL); try again soon."))

    @app.errorhandler(ClientGone)
    def gone(_: ClientGone) -> tuple[str, int]:
        return "", 499

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> tuple[dict[str, Any], int, dict[str, str]]:
        if isinstance(error, NotFoundError | MethodNotAllowedError) and error.description == type(error).description:
            message = no_route(request)
        else:
            message = f"{error.description} ({request.method} {request.path[:100]})"
        body, _, _ = known(HTTP_ERRORS.get(error.code, InvalidRequest)(message))
        return body, error.code or 500, dict(error.get_headers()[1:] if error.code in (405, 416) else [])

    @app.errorhandler(Exception)
    def unknown(error: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
        logger.exception("a request failed unexpectedly")
        return known(OmniError(FAULT))
