"""/openapi.json (OpenAPI 3.1): every route of the application, the requests' schemas as the gate checks them.

A route that is not described below still appears, with what Flask knows of it, so none can be forgotten.
"""

import re
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, current_app
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from api import answer_schema as answers
from api.schema import ChatRequest
from api.schema_text import CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest

REF = "#/components/schemas/{model}"
CONVERTER = re.compile(r"<(?:(\w+):)?(\w+)>")
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of one operation beyond its path."""

    summary: str
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    is_streamed: bool = False  # may answer with server-sent events
    is_resumable: bool = False  # takes `stream` and `starting_after`, and may answer 202
    is_open: bool = False  # needs no key


DESCRIBED = {
    "POST /v1/chat/completions": Described("Chat", answers.ChatAnswer, ChatRequest, is_streamed=True),
    "GET /v1/chat/completions/{job_id}": Described("Fetch or resume a chat", answers.ChatAnswer, is_resumable=True),
    "POST /v1/completions": Described("Complete a text", answers.TextAnswer, CompletionRequest, is_streamed=True),
    "GET /v1/completions/{answer_id}": Described("Fetch or resume a text", answers.TextAnswer, is_resumable=True),
    "POST /v1/embeddings": Described("Not served by a text generation model: 404", None, EmbeddingRequest),
    "POST /tokenize": Described("Text or conversation to token ids", answers.Tokens, TokenizeRequest),
    "POST /detokenize": Described("Token ids to text", answers.Text, DetokenizeRequest),
    "GET /v1/models": Described("The served models", answers.ModelList),
    "GET /v1/models/{name}": Described("One model", answers.Model),
    "GET /v1/jobs": Described("The key's own jobs", answers.JobList),
    "GET /v1/jobs/{job_id}": Described("One job: its state and place in line", answers.Job),
    "DELETE /v1/jobs/{job_id}": Described("Cancel a job", answers.Deleted),
    "GET /health": Described("Healthy, or still loading (503)", answers.Health, is_open=True),
    "GET /readyz": Described("The same as /health", answers.Health, is_open=True),
    "GET /livez": Described("The process answers", None, is_open=True),
    "GET /openapi.json": Described("This document", None, is_open=True),
}
PAGES = ("/", "/board", "/static/{name}")  # for people


def openapi_routes() -> Blueprint:
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def document() -> Any:
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
        "info": {"title": "Protocol OMNI", "version": "1", "description": "An OpenAI-compatible API before one GPU."},
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
    """Of all models named above and of what they hold."""
    used: list[tuple[type[BaseModel], Any]] = [
        (answers.ErrorBody, "serialization"),
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
    content: dict[str, Any] = {}
    if described.answer is not None:
        content["application/json"] = {"schema": reference(described.answer)}
    if described.is_streamed or described.is_resumable:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Done", **({"content": content} if content else {})}}
    if described.is_resumable or described.is_streamed:
        responses["202"] = {
            "description": "In line or in progress",
            "content": {"application/json": {"schema": reference(answers.Pending)}},
        }
    if name in ("GET /health", "GET /readyz"):
        responses["503"] = responses["200"] | {"description": "Still loading"}
    responses["default"] = {
        "description": "OpenAI's error object",
        "content": {"application/json": {"schema": reference(answers.ErrorBody)}},
    }
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", name).strip("_").lower(),
        "summary": described.summary,
        "parameters": parameters(rule, described),
        "responses": responses,
        "security": [] if described.is_open else [{"key": []}],
    }
    if described.body is not None:
        said["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference(described.body)}},
        }
    return said


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
                "description": "The `id:` of the last chunk that came",
                "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            },
        ]
    return found


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
