"""The operations of /openapi.json: summary, request model and answer model of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import BaseModel

from api.schema import answers
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingRequest
from api.schema.messages import CountRequest, MessagesRequest
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaModelRequest,
)
from api.schema.responses import ResponsesRequest
from api.schema.tokens import DetokenizeRequest, TokenizeRequest


@dataclass(frozen=True, slots=True)
class Described:
    """One operation."""

    summary: str
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    is_streamed: bool = False  # may answer with server-sent events
    has_lines: bool = False  # may answer with lines of JSON
    is_resumable: bool = False  # takes `stream` and `starting_after`
    may_be_pending: bool = False  # may answer 202: queued or in progress
    is_open: bool = False  # needs no key
    media_type: str = "application/json"  # of an answer without a model
    error: type[BaseModel] = answers.ErrorBody


CHAT = Described("Chat", answers.ChatAnswer, ChatRequest, is_streamed=True, may_be_pending=True)
TEXT = Described("Complete a text", answers.TextAnswer, CompletionRequest, is_streamed=True, may_be_pending=True)
MESSAGE = Described(
    "Chat in Anthropic's form", answers.MessageAnswer, MessagesRequest, is_streamed=True, error=answers.MessagesError
)
OLLAMA_CHAT = Described(
    "Chat in Ollama's form", answers.OllamaAnswer, OllamaChatRequest, has_lines=True, error=answers.OllamaError
)
OLLAMA_TEXT = Described(
    "Generate in Ollama's form", answers.OllamaAnswer, OllamaGenerateRequest, has_lines=True, error=answers.OllamaError
)
DESCRIBED: Mapping[str, Described] = MappingProxyType(
    {
        "POST /v1/chat/completions": CHAT,
        "GET /v1/chat/completions/{job_id}": Described(
            "Fetch or resume a chat", answers.ChatAnswer, is_resumable=True, may_be_pending=True
        ),
        "POST /v1/completions": TEXT,
        "GET /v1/completions/{answer_id}": Described(
            "Fetch or resume a text", answers.TextAnswer, is_resumable=True, may_be_pending=True
        ),
        "POST /v1/responses": Described("Respond", answers.ResponseAnswer, ResponsesRequest, is_streamed=True),
        "GET /v1/responses/{response_id}": Described(
            "Fetch or resume a response", answers.ResponseAnswer, is_resumable=True
        ),
        "POST /v1/responses/{response_id}/cancel": Described("Cancel a response", answers.ResponseAnswer),
        "DELETE /v1/responses/{response_id}": Described("Delete a response", answers.Deleted),
        "GET /v1/responses/{response_id}/input_items": Described("The input items of a response", answers.ItemList),
        "POST /v1/responses/input_tokens": Described("Count tokens", answers.TokenCount, ResponsesRequest),
        "POST /v1/messages": MESSAGE,
        "GET /v1/messages/{message_id}": Described(
            "Fetch or resume a message", answers.MessageAnswer, is_resumable=True, error=answers.MessagesError
        ),
        "POST /v1/messages/count_tokens": Described(
            "Count tokens", answers.TokenCount, CountRequest, error=answers.MessagesError
        ),
        "POST /v1/embeddings": Described("Embed texts", answers.EmbeddingAnswer, EmbeddingRequest),
        "POST /tokenize": Described("Text or conversation to token ids", answers.TokenizeAnswer, TokenizeRequest),
        "POST /detokenize": Described("Token ids to text", answers.DetokenizeAnswer, DetokenizeRequest),
        "POST /api/chat": OLLAMA_CHAT,
        "POST /api/generate": OLLAMA_TEXT,
        "GET /api/chat/{job_id}": Described(
            "Fetch or resume a chat", answers.OllamaAnswer, has_lines=True, is_resumable=True, error=answers.OllamaError
        ),
        "GET /api/generate/{job_id}": Described(
            "Fetch or resume a text", answers.OllamaAnswer, has_lines=True, is_resumable=True, error=answers.OllamaError
        ),
        "POST /api/embed": Described("Embed texts", body=OllamaEmbedRequest, error=answers.OllamaError),
        "POST /api/embeddings": Described("Embed a text", body=OllamaEmbeddingsRequest, error=answers.OllamaError),
        "GET /api/tags": Described("The served models", error=answers.OllamaError),
        "GET /api/ps": Described("The loaded models", error=answers.OllamaError),
        "GET /api/version": Described("The version of Ollama's API", is_open=True, error=answers.OllamaError),
        "POST /api/show": Described("One model", body=OllamaModelRequest, error=answers.OllamaError),
        "POST /api/pull": Described(
            "Done for a served model", body=OllamaModelRequest, has_lines=True, error=answers.OllamaError
        ),
        "POST /api/create": Described("Refused", error=answers.OllamaError),
        "POST /api/copy": Described("Refused", error=answers.OllamaError),
        "POST /api/push": Described("Refused", error=answers.OllamaError),
        "DELETE /api/delete": Described("Refused", error=answers.OllamaError),
        "GET /v1/models": Described("The served models", answers.ModelList),
        "GET /v1/models/{name}": Described("One model", answers.Model),
        "GET /v1/jobs": Described("The key's own jobs", answers.JobList),
        "GET /v1/jobs/{job_id}": Described("One job: its state and place in the queue", answers.Job),
        "DELETE /v1/jobs/{job_id}": Described("Cancel a job", answers.Deleted),
        "GET /health": Described("Healthy, or still loading (503)", answers.Health, is_open=True),
        "GET /readyz": Described("The same as /health", answers.Health, is_open=True),
        "GET /livez": Described("The process answers", None, is_open=True),
        "GET /openapi.json": Described("This document", None, is_open=True),
        "GET /metrics": Described("Metrics for Prometheus", media_type="text/plain"),
        "GET /admin/board": Described("The board: a snapshot a second", media_type="text/event-stream"),
    }
)
