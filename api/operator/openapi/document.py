"""/openapi.json (OpenAPI 3.1): every route of the application, with the request models that bodies are checked by.

Written by hand: spectree and flask-openapi3 want to own routes, validation and errors. A route that operations.py does
not describe still appears, with what Flask knows of it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from api.operator.openapi.described import OTHERWISE, RESUMING, TAGS, Described, Query, tag_of
from api.operator.openapi.faults import component, components, faults_of
from api.operator.openapi.operations import DESCRIBED
from api.schema import answers
from api.schema.service.state import Pending
from common import __version__

HERE = Path(__file__).parent
REF = "#/components/schemas/{model}"
CONVERTER = re.compile(r"<(?:(\w+):)?(\w+)>")
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")
PAGES = ("/", "/board", "/batches", "/docs", "/static/{name}")  # left out
ABOUT = """An API in OpenAI's form in front of a queue: every request is a job that is queued in order, visible,
cancellable, and finished exactly once, whichever process dies.

The same models answer in Anthropic's form (`/v1/messages`) and in Ollama's (`/api`). Each needs a key as
`Authorization: Bearer KEY`, or in `x-api-key`.

Errors have the form of the path's API. Any operation may also answer 405 (method), 408 (the body came too slowly),
421 (the Host header names another server) and 501 (transfer coding)."""
TEXT: Mapping[str, Any] = MappingProxyType({"schema": {"type": "string"}})
ANY_FAULT = "Any other error, in the same form"


def openapi_routes() -> Blueprint:
    routes = Blueprint("openapi", __name__)
    kept: list[bytes] = []  # the document never changes while the process runs

    @routes.get("/openapi.json")
    def document() -> Response:
        if not kept:
            kept.append(json.dumps(openapi(current_app), ensure_ascii=False, separators=(",", ":")).encode())
        answer = Response(kept[0], content_type="application/json")
        answer.add_etag()
        answer.make_conditional(request)
        return answer

    return routes


def openapi(app: Flask) -> dict[str, Any]:
    examples = examples_for(app)
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        path = path_of(rule)
        if path in PAGES:
            continue
        for method in sorted((rule.methods or set()) & set(METHODS)):
            name = f"{method} {path}"
            paths.setdefault(path, {})[method.lower()] = operation(name, rule, examples.get(name, {}))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Protocol OMNI",
            "version": __version__,
            "summary": "An OpenAI-compatible API in front of one GPU.",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "tags": [{"name": name, "description": says} for name, says in TAGS.items()],
        "paths": dict(sorted(paths.items(), key=lambda item: place_of(item[0]))),
        "components": {
            "schemas": schemas(),
            "responses": components(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "One of `OMNI_API_KEYS`, or of `omni keys`"}
            },
        },
    }


def examples_for(app: Flask) -> dict[str, dict[str, Any]]:
    """Requests that this server can answer as they stand: its model's id is in them."""
    settings = app.extensions["omni"].settings
    models = [name for model in settings.models for name in model.ids] or [*settings.model.names]
    names = {"MODEL": models[0], "ENCODER": next(iter(settings.embedding.names), "encoder"), "VERSION": __version__}
    text = (HERE / "examples.json").read_text()
    for word, name in names.items():
        text = re.sub(rf"\b{word}\b", json.dumps(name)[1:-1].replace("\\", r"\\"), text)
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def place_of(path: str) -> tuple[int, bool, str]:
    """The order of the groups; within one those without an id come first."""
    tag = tag_of(path)
    return list(TAGS).index(tag), "{" in path or tag == OTHERWISE, path


def path_of(rule: Rule) -> str:
    """Flask's '/v1/jobs/<job_id>' as OpenAPI writes it."""
    return CONVERTER.sub(r"{\2}", rule.rule)


def schemas() -> dict[str, Any]:
    """The schemas of all models that operations name, and of the models inside them."""
    used: list[tuple[type[BaseModel], Any]] = [
        (answers.ErrorBody, "serialization"),
        (answers.MessagesError, "serialization"),
        (answers.OllamaError, "serialization"),
        (Pending, "serialization"),
        (answers.ChatChunk, "serialization"),
    ]
    for described in DESCRIBED.values():
        if described.body is not None:
            used.append((described.body, "validation"))
        if described.answer is not None:
            used.append((described.answer, "serialization"))
    _, definitions = models_json_schema(list(dict.fromkeys(used)), ref_template=REF)
    found: dict[str, Any] = definitions["$defs"]
    words = json.loads((HERE / "fields.json").read_text())
    for body in {described.body.__name__ for described in DESCRIBED.values() if described.body is not None}:
        for name, schema in found[body].get("properties", {}).items():
            if says := words.get(f"{body}.{name}", words.get(name)):
                schema["description"] = says
    drop_null_defaults(found)
    return found


def drop_null_defaults(schema: Any) -> None:
    """A field whose default is null may be left out; generators take a field with a default for one that is there."""
    for node in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        if isinstance(node, dict) and node.get("default", "") is None:
            del node["default"]
        drop_null_defaults(node)


def operation(name: str, rule: Rule, examples: dict[str, Any]) -> dict[str, Any]:
    method, path = name.split(" ")
    described = DESCRIBED.get(name, Described(rule.endpoint.replace(".", ": ").replace("_", " ")))
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", name).strip("_").lower(),
        "tags": [tag_of(path)],
        "summary": described.summary,
        "parameters": parameters(rule, described),
        "responses": responses(method, path, described, examples),
        "security": [] if described.is_open else [{"key": []}],
    }
    if described.says or described.needs_admin:
        said["description"] = " ".join([described.says, "Needs an admin key." * described.needs_admin]).strip()
    if described.body is not None:
        content: dict[str, Any] = {"schema": reference(described.body)}
        if bodies := examples.get("bodies"):
            content["examples"] = {
                re.sub(r"\W+", "_", title).lower(): {"summary": title, "value": body} for title, body in bodies.items()
            }
        said["requestBody"] = {
            "required": not described.has_optional_body,
            "content": {described.body_type: content},
        }
    return said


def responses(method: str, path: str, described: Described, examples: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {} if described.is_refused else {"200": done(described, examples)}
    if described.may_be_pending:
        found["202"] = {"description": "Queued or in progress", "content": json_of(Pending)}
    elif described.has_optional_body:
        found["202"] = found["200"] | {"description": "Ordered, and not done yet"}
    if path in ("/health", "/readyz"):
        found["503"] = {"description": "Still loading; `progress` says what", "content": json_of(described.answer)}
    for fault in faults_of(method, path, described):
        found[fault.status] = {"$ref": f"#/components/responses/{component(fault, described.error)}"}
    found["default"] = {"description": ANY_FAULT, "content": json_of(described.error)}
    return found


def done(described: Described, examples: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {described.media_type: {} if described.media_type == "application/json" else dict(TEXT)}
    if described.answer is not None:
        content = json_of(described.answer)
        if "answer" in examples:
            content["application/json"]["example"] = examples["answer"]
    if described.has_lines:
        content["application/x-ndjson"] = dict(TEXT)
    elif described.is_streamed or described.is_resumable:
        content["text/event-stream"] = dict(TEXT) | ({"example": examples["stream"]} if "stream" in examples else {})
    if any(query.name == "format" for query in described.query):
        content["text/csv"] = dict(TEXT)
    return {"description": "Done", "content": content}


def parameters(rule: Rule, described: Described) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for _, name in CONVERTER.findall(rule.rule)
    ]
    return found + [in_query(query) for query in (*described.query, *(RESUMING if described.is_resumable else ()))]


def in_query(query: Query) -> dict[str, Any]:
    return {"name": query.name, "in": "query", "description": query.says, "schema": dict(query.schema)}


def json_of(model: type[BaseModel] | None) -> dict[str, Any]:
    return {"application/json": {"schema": reference(model)} if model is not None else {}}


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
