"""The operations of /openapi.json: summary, request model and answer model of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import BaseModel

from api.models import schema as models
from api.models.schema import ModelOrder, NamedModelOrder
from api.operator.adapter_requests import LoadAdapterRequest, UnloadAdapterRequest
from api.schema import answers
from api.schema.base import MetadataChange
from api.schema.batch import answers as batches
from api.schema.batch.create import BatchRequest
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingRequest, RerankRequest, ScoreRequest
from api.schema.messages import CountRequest, MessagesRequest
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaModelRequest,
)
from api.schema.response_items import AddedItems, NewConversation
from api.schema.responses import ResponsesRequest
from api.schema.tokens import DetokenizeRequest, TokenizeRequest
from api.webhooks import schema as webhooks


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
    body_type: str = "application/json"
    has_optional_body: bool = False
    error: type[BaseModel] = answers.ErrorBody


def ordered(what: str) -> Described:
    return Described(f"{what}; 202 while it is not done", models.Model, ModelOrder, has_optional_body=True)


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
RERANK = Described("Rank documents for a query", answers.RerankAnswer, RerankRequest)
SCORE = Described("Score pairs of texts", answers.ScoreAnswer, ScoreRequest)
DESCRIBED: Mapping[str, Described] = MappingProxyType(
    {
        "POST /v1/chat/completions": CHAT,
        "GET /v1/chat/completions/{job_id}": Described(
            "Fetch or resume a chat", answers.ChatAnswer, is_resumable=True, may_be_pending=True
        ),
        "GET /v1/chat/completions": Described("Stored chats", answers.ItemList),
        "POST /v1/chat/completions/{job_id}": Described(
            "Change a stored chat's metadata", answers.ChatAnswer, MetadataChange
        ),
        "DELETE /v1/chat/completions/{job_id}": Described("Delete a stored chat", answers.Deleted),
        "GET /v1/chat/completions/{job_id}/messages": Described("The messages of a stored chat", answers.ItemList),
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
        "POST /v1/conversations": Described("Begin a conversation", body=NewConversation),
        "GET /v1/conversations/{conversation_id}": Described("A conversation"),
        "POST /v1/conversations/{conversation_id}": Described("Change a conversation's metadata", body=MetadataChange),
        "DELETE /v1/conversations/{conversation_id}": Described("Delete a conversation", answers.Deleted),
        "POST /v1/conversations/{conversation_id}/items": Described("Add items", answers.ItemList, AddedItems),
        "GET /v1/conversations/{conversation_id}/items": Described("The items of a conversation", answers.ItemList),
        "GET /v1/conversations/{conversation_id}/items/{item_id}": Described("An item of a conversation"),
        "DELETE /v1/conversations/{conversation_id}/items/{item_id}": Described("Remove an item"),
        "POST /v1/responses/input_tokens": Described("Count tokens", answers.TokenCount, ResponsesRequest),
        "POST /v1/messages": MESSAGE,
        "GET /v1/messages/{message_id}": Described(
            "Fetch or resume a message", answers.MessageAnswer, is_resumable=True, error=answers.MessagesError
        ),
        "POST /v1/messages/count_tokens": Described(
            "Count tokens", answers.TokenCount, CountRequest, error=answers.MessagesError
        ),
        "POST /v1/embeddings": Described("Embed texts", answers.EmbeddingAnswer, EmbeddingRequest),
        "POST /v1/rerank": RERANK,
        "POST /rerank": RERANK,
        "POST /v2/rerank": RERANK,
        "POST /v1/score": SCORE,
        "POST /score": SCORE,
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
        "GET /v1/models": Described("The served models, and where they are", models.ModelList),
        "GET /models": Described("The same, as llama.cpp has it", models.ModelList),
        "POST /v1/models/{name}/load": ordered("Load a model"),
        "POST /v1/models/{name}/unload": ordered("Unload a model"),
        "POST /v1/models/{name}/pin": ordered("Keep a model loaded"),
        "POST /v1/models/{name}/unpin": ordered("Let a model go when its place is needed"),
        "POST /models/load": Described("Load a model, as llama.cpp has it", models.Ordered, NamedModelOrder),
        "POST /models/unload": Described("Unload a model, as llama.cpp has it", models.Ordered, NamedModelOrder),
        "POST /v1/load_lora_adapter": Described("Load an adapter", body=LoadAdapterRequest, media_type="text/plain"),
        "POST /v1/unload_lora_adapter": Described(
            "Unload an adapter", body=UnloadAdapterRequest, media_type="text/plain"
        ),
        "GET /v1/models/{name}": Described("One model", models.Model),
        "POST /v1/files": Described(
            "Upload a file", batches.FileAnswer, batches.UploadForm, body_type="multipart/form-data"
        ),
        "GET /v1/files": Described("The key's files", batches.ListedFiles),
        "GET /v1/files/{file_id}": Described("One file", batches.FileAnswer),
        "GET /v1/files/{file_id}/content": Described(
            "The bytes of a file, or a range of them", media_type="application/octet-stream"
        ),
        "DELETE /v1/files/{file_id}": Described("Delete a file", answers.Deleted),
        "POST /v1/batches": Described("Create a batch", batches.BatchAnswer, BatchRequest),
        "GET /v1/batches": Described("The key's batches", batches.ListedBatches),
        "GET /v1/batches/{batch_id}": Described("One batch", batches.BatchAnswer),
        "POST /v1/batches/{batch_id}/cancel": Described("Cancel a batch", batches.BatchAnswer),
        "POST /v1/messages/batches": Described(
            "Create a message batch",
            batches.MessageBatchAnswer,
            batches.MessageBatchBody,
            error=answers.MessagesError,
        ),
        "GET /v1/messages/batches": Described(
            "The key's message batches", batches.ListedMessageBatches, error=answers.MessagesError
        ),
        "GET /v1/messages/batches/{batch_id}": Described(
            "One message batch", batches.MessageBatchAnswer, error=answers.MessagesError
        ),
        "GET /v1/messages/batches/{batch_id}/results": Described(
            "The results, as lines of JSON", media_type="application/x-jsonl", error=answers.MessagesError
        ),
        "POST /v1/messages/batches/{batch_id}/cancel": Described(
            "Cancel a message batch", batches.MessageBatchAnswer, error=answers.MessagesError
        ),
        "DELETE /v1/messages/batches/{batch_id}": Described(
            "Delete a message batch that has ended", batches.DeletedMessageBatch, error=answers.MessagesError
        ),
        "GET /v1/webhook_event_types": Described("The types of events", webhooks.WebhookEventTypeList),
        "POST /v1/webhook_endpoints": Described(
            "Create a webhook endpoint", webhooks.WebhookSecretAnswer, webhooks.CreateWebhookRequest
        ),
        "GET /v1/webhook_endpoints": Described("The key's webhook endpoints", webhooks.WebhookEndpointList),
        "GET /v1/webhook_endpoints/{endpoint_id}": Described("One webhook endpoint", webhooks.WebhookEndpointAnswer),
        "POST /v1/webhook_endpoints/{endpoint_id}": Described(
            "Change a webhook endpoint", webhooks.WebhookEndpointAnswer, webhooks.UpdateWebhookRequest
        ),
        "DELETE /v1/webhook_endpoints/{endpoint_id}": Described("Delete a webhook endpoint", answers.Deleted),
        "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": Described(
            "A new signing secret", webhooks.WebhookSecretAnswer, webhooks.RotateSecretRequest
        ),
        "POST /v1/webhook_endpoints/{endpoint_id}/test": Described(
            "Send a sample event now", webhooks.WebhookTestAnswer, webhooks.TestWebhookRequest
        ),
        "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": Described(
            "Deliveries to an endpoint, newest first", webhooks.WebhookDeliveryList
        ),
        "POST /v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver": Described(
            "Deliver again", webhooks.WebhookDelivery
        ),
        "GET /v1/jobs": Described("The key's own jobs", answers.JobList),
        "GET /v1/jobs/{job_id}": Described("One job: its state and place in the queue", answers.Job),
        "DELETE /v1/jobs/{job_id}": Described("Cancel a job", answers.Deleted),
        "GET /v1/usage": Described("What the key used, by day; for an admin's key what all used", None),
        "GET /v1/organization/usage/completions": Described("The same, where OpenAI's client asks", None),
        "GET /health": Described("Healthy, or still loading (503)", answers.Health, is_open=True),
        "GET /readyz": Described("The same as /health", answers.Health, is_open=True),
        "GET /livez": Described("The process answers", None, is_open=True),
        "GET /openapi.json": Described("This document", None, is_open=True),
        "GET /metrics": Described("Metrics for Prometheus", media_type="text/plain"),
        "GET /admin/board": Described("The board: a snapshot a second", media_type="text/event-stream"),
    }
)
