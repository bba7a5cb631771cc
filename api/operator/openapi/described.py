"""One operation as /openapi.json describes it, and the group that it belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from api.request.pages import DEFAULT_PAGE, MAX_PAGE
from api.schema import answers

TAGS: Mapping[str, str] = MappingProxyType(
    {
        "Chat": "OpenAI's chat completions. Start here.",
        "Responses": "OpenAI's responses, and the conversations that they can belong to.",
        "Completions": "Raw text in, raw text out.",
        "Messages": "Anthropic's API.",
        "Embeddings and ranking": "Vectors and scores; they need `OMNI_EMBEDDING_MODEL`.",
        "Tokens": "Between text and token ids.",
        "Jobs": "Every request is a job: what it waits for, and how to cancel it.",
        "Batches and files": "Many requests in one file, answered when there is room.",
        "Webhooks": "A signed request to your server when background work has ended.",
        "Models": "What is served, and whether it is loaded.",
        "Usage": "Tokens and GPU seconds by key and day.",
        "Ollama": "The API of Ollama, for its clients.",
        "Operator": "Health, metrics and the audit log.",
    }
)
PLACES: Mapping[str, str] = MappingProxyType(  # the beginning of a path -> its tag; the first that fits
    {
        "/v1/chat/": "Chat",
        "/v1/responses": "Responses",
        "/v1/conversations": "Responses",
        "/v1/completions": "Completions",
        "/v1/messages/batches": "Batches and files",
        "/v1/messages": "Messages",
        "/v1/batches": "Batches and files",
        "/v1/files": "Batches and files",
        "/v1/jobs": "Jobs",
        "/v1/usage": "Usage",
        "/v1/organization/audit_logs": "Operator",
        "/v1/organization": "Usage",
        "/v1/webhook": "Webhooks",
        "/v1/models": "Models",
        "/models": "Models",
        "/v1/load_lora": "Models",
        "/v1/unload_lora": "Models",
        "/tokenize": "Tokens",
        "/detokenize": "Tokens",
        "/v1/embeddings": "Embeddings and ranking",
        "/v1/rerank": "Embeddings and ranking",
        "/v2/rerank": "Embeddings and ranking",
        "/rerank": "Embeddings and ranking",
        "/v1/score": "Embeddings and ranking",
        "/score": "Embeddings and ranking",
        "/api/": "Ollama",
    }
)
OTHERWISE = "Operator"


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query."""

    name: str
    says: str
    schema: Mapping[str, Any]


AFTER = Query("after", "The last id of the page before", MappingProxyType({"type": "string"}))
LIMIT = Query(
    "limit",
    "Items on the page",
    MappingProxyType({"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}),
)
ORDER = Query("order", "By time", MappingProxyType({"enum": ("asc", "desc"), "default": "desc"}))
PAGES = (LIMIT, AFTER)
STREAM = Query("stream", "Continue the stream", MappingProxyType({"type": "boolean"}))
RESUMING = (
    STREAM,
    Query(
        "starting_after",
        "The last chunk's `id:`, or the last event's `sequence_number` of a response",
        MappingProxyType({"type": "integer", "minimum": 0, "maximum": 999_999_999}),
    ),
)


@dataclass(frozen=True, slots=True)
class Described:
    """One operation."""

    summary: str
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    says: str = ""  # more than the summary, in Markdown
    query: tuple[Query, ...] = ()
    makes_jobs: bool = False  # the body becomes jobs of the queue
    needs_admin: bool = False
    is_streamed: bool = False  # may answer with server-sent events
    has_lines: bool = False  # may answer with lines of JSON
    is_resumable: bool = False  # takes `stream` and `starting_after`
    may_be_pending: bool = False  # may answer 202: queued or in progress
    is_open: bool = False  # needs no key
    is_refused: bool = False  # always: 405
    media_type: str = "application/json"  # of an answer without a model
    body_type: str = "application/json"
    has_optional_body: bool = False
    stores: bool = False  # may find no room
    error: type[BaseModel] = answers.ErrorBody


def tag_of(path: str) -> str:
    return next((tag for start, tag in PLACES.items() if path.startswith(start)), OTHERWISE)
