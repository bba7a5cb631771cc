"""/openapi.json (OpenAPI 3.1): every route of the application, with the request models that bodies are checked by.

Written by hand: spectree and flask-openapi3 want to own routes, validation and errors, and would add more code than
these 130 lines. A route that operations.py does not describe still appears, with what Flask knows of it.
"""

import re
from typing import Any

from flask import Blueprint, Flask, current_app
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from api.operator.openapi.operations import DESCRIBED, Described
from api.schema import answers
from common import __version__

REF = "#/components/schemas/{model}"
CONVERTER = re.compile(r"<(?:(\w+):)?(\w+)>")
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")
PAGES = ("/", "/board", "/batches", "/docs", "/static/{name}")  # left out


def openapi_routes() -> Blueprint:
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def document() -> dict[str, Any]:
        return openapi(current_app)

    return routes


def openapi(app: Flask) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        path = path_of(rule)
        if path in PAGES:
            continue
        for method in sorted((rule.methods or set()) & set(METHODS)):
            paths.setdefault(path, {})[method.lower()] = operation(f"{method} {path}", rule)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Protocol OMNI",
            "version": __version__,
            "description": "An OpenAI-compatible API in front of one GPU.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def path_of(rule: Rule) -> str:
    """Flask's '/v1/jobs/<job_id>' as OpenAPI writes it."""
    return CONVERTER.sub(r"{\2}", rule.rule)


def schemas() -> dict[str, Any]:
    """The schemas of all models that operations name, and of the models inside them."""
    used: list[tuple[type[BaseModel], Any]] = [
        (answers.ErrorBody, "serialization"),
        (answers.MessagesError, "serialization"),
        (answers.OllamaError, "serialization"),
        (answers.Pending, "serialization"),
        (answers.ChatChunk, "serialization"),
    ]
    for described in DESCRIBED.values():
        if described.body is not None:
            used.append((described.body, "validation"))
        if described.answer is not None:
            used.append((described.answer, "serialization"))
    _, definitions = models_json_schema(list(dict.fromkeys(used)), ref_template=REF)
    found: dict[str, Any] = definitions["$defs"]
    return found


def operation(name: str, rule: Rule) -> dict[str, Any]:
    described = DESCRIBED.get(name, Described(rule.endpoint.replace(".", ": ").replace("_", " ")))
    content: dict[str, Any] = {described.media_type: {}}
    if described.answer is not None:
        content = {"application/json": {"schema": reference(described.answer)}}
    if described.has_lines:
        content["application/x-ndjson"] = {}
    elif described.is_streamed or described.is_resumable:
        content["text/event-stream"] = {}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    if described.may_be_pending:
        responses["202"] = {
            "description": "Queued or in progress",
            "content": {"application/json": {"schema": reference(answers.Pending)}},
        }
    if name in ("GET /health", "GET /readyz"):
        responses["503"] = responses["200"] | {"description": "Still loading"}
    responses["default"] = {
        "description": "An error object, OpenAI's, Anthropic's or Ollama's",
        "content": {"application/json": {"schema": reference(described.error)}},
    }
    described_as: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", name).strip("_").lower(),
        "summary": described.summary,
        "parameters": parameters(rule, described),
        "responses": responses,
        "security": [] if described.is_open else [{"key": []}],
    }
    if described.body is not None:
        described_as["requestBody"] = {
            "required": not described.has_optional_body,
            "content": {described.body_type: {"schema": reference(described.body)}},
        }
    return described_as


def parameters(rule: Rule, described: Described) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for _, name in CONVERTER.findall(rule.rule)
    ]
    if described.is_resumable:
        found += [
            {"name": "stream", "in": "query", "schema": {"type": "boolean"}},
            {
                "name": "starting_after",
                "in": "query",
                "description": "The last chunk's `id:`, or the last event's `sequence_number` of a response",
                "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            },
        ]
    return found


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
