"""OmniError -> error body, status and headers, in the form of the path's API. The only table of codes and statuses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flask import Request, current_app

from common.errors import OmniError, Overloaded, Unavailable

# code on our wire -> (status, type, code in the body). The reference API has 503 and 500 as integer codes.
STATUS: Mapping[str, tuple[int, str, str | int | None]] = MappingProxyType(
    {
        "invalid_request": (400, "invalid_request_error", None),
        "context_length_exceeded": (400, "invalid_request_error", "context_length_exceeded"),
        "conflict": (409, "invalid_request_error", "conflict"),
        "stream_rewound": (409, "invalid_request_error", "stream_rewound"),
        "conversation_locked": (409, "invalid_request_error", "conversation_locked"),
        "invalid_api_key": (401, "invalid_request_error", "invalid_api_key"),
        "forbidden": (403, "invalid_request_error", "forbidden"),
        "not_found": (404, "invalid_request_error", "not_found"),
        "method_not_allowed": (405, "invalid_request_error", "method_not_allowed"),
        "previous_response_not_found": (400, "invalid_request_error", "previous_response_not_found"),
        "model_not_found": (404, "invalid_request_error", "model_not_found"),
        "body_too_large": (413, "invalid_request_error", "body_too_large"),
        "request_timeout": (408, "invalid_request_error", "request_timeout"),
        "unsupported_media_type": (415, "invalid_request_error", "unsupported_media_type"),
        "misdirected_request": (421, "invalid_request_error", "misdirected_request"),
        "not_implemented": (501, "invalid_request_error", "not_implemented"),
        "idempotency_mismatch": (422, "invalid_request_error", "idempotency_mismatch"),
        "rate_limit_exceeded": (429, "rate_limit_error", "rate_limit_exceeded"),
        "window_cannot_be_kept": (429, "rate_limit_error", "window_cannot_be_kept"),
        "cancelled": (409, "invalid_request_error", "cancelled"),
        "client_gone": (409, "invalid_request_error", "cancelled"),
        "timeout": (504, "timeout_error", "timeout"),
        "model_changed": (409, "invalid_request_error", "model_changed"),
        "adapter_unloaded": (409, "invalid_request_error", "adapter_unloaded"),
        "insufficient_storage": (507, "invalid_request_error", "insufficient_storage"),
        "service_unavailable": (503, "service_unavailable", 503),
        "server_restarting": (503, "service_unavailable", "server_restarting"),
        "out_of_memory": (500, "internal_error", 500),
        "model_load_failed": (500, "internal_error", "model_load_failed"),
        "worker_crashed": (500, "internal_error", "worker_crashed"),
        "resume_mismatch": (500, "internal_error", "resume_mismatch"),
        "grammar_failed": (500, "internal_error", "grammar_failed"),
        "backend_error": (500, "internal_error", "backend_error"),
        "wire_error": (500, "internal_error", "wire_error"),
        "internal_error": (500, "internal_error", "internal_error"),
    }
)
INTERNAL = (500, "internal_error", "internal_error")
# A retry would only repeat these failures; the SDKs obey the header `x-should-retry`.
NO_RETRY = frozenset(
    {
        "out_of_memory", "worker_crashed", "timeout", "cancelled", "client_gone", "model_changed", "adapter_unloaded",
        "stream_rewound", "insufficient_storage", "window_cannot_be_kept", "model_load_failed",
    }
)  # fmt: skip

MESSAGES_PATH = "/v1/messages"
OLLAMA_PATH = "/api"
MAX_PATH = 100  # characters of a path that an error quotes
# HTTP status -> Anthropic's error type.
MESSAGES_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)


def status_of(code: str) -> int:
    return STATUS.get(code, INTERNAL)[0]


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; `code` is the code on our wire."""
    _, kind, shown = STATUS.get(code, (500, "internal_error", code))
    return {"error": {"message": message, "type": kind, "param": param, "code": shown}}


def error_headers(error: OmniError) -> dict[str, str]:
    headers = {"x-should-retry": "false"} if error.code in NO_RETRY else {}
    if isinstance(error, (Overloaded, Unavailable)):
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code == "invalid_api_key":
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def openai_error(error: OmniError) -> dict[str, Any]:
    return error_body(error.code, error.message, error.param)


def messages_error(error: OmniError) -> dict[str, Any]:
    """Anthropic's error object, for /v1/messages."""
    status = status_of(error.code)
    kind = MESSAGES_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def ollama_error(error: OmniError) -> dict[str, Any]:
    """Ollama's error object, for /api."""
    return {"error": error.message}


def error_answer(
    error: OmniError, path: str, *, request_id: str = "", is_anthropics: bool = False
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Body, status and headers. `is_anthropics`: a client of Anthropic's asks, whatever the path."""
    if is_anthropics or _is_below(path, MESSAGES_PATH):
        body = messages_error(error) | {"request_id": request_id}
    else:
        body = ollama_error(error) if is_ollamas(path) else openai_error(error)
    return body, status_of(error.code), error_headers(error)


def no_route(request: Request) -> str:
    """What is said where no route has this path and method. Clients leave the base URL's /v1 out, or have it twice."""
    routes = current_app.create_url_adapter(request)
    asked = f"{request.method} {request.path[:MAX_PATH]}"
    if routes is None:
        return f"There is no {asked}."
    other = request.path.removeprefix("/v1") if request.path.startswith("/v1/v1/") else f"/v1{request.path}"
    if routes.test(other, request.method):
        return f"There is no {asked}, but {request.method} {other[:MAX_PATH]}: the base URL ends in one /v1."
    allowed = sorted({*routes.allowed_methods(request.path)} - {request.method, "HEAD", "OPTIONS"})
    there = f"this path has {' and '.join(allowed)}" if allowed else "GET /docs shows what there is"
    return f"There is no {asked} on this server; {there}."


def is_ollamas(path: str) -> bool:
    return _is_below(path, OLLAMA_PATH)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
