"""The operations that answer with text, vectors or scores, in OpenAI's, Anthropic's and Ollama's forms."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel

from api.operator.openapi.described import ORDER, PAGES, Described
from api.schema import answers
from api.schema.base import MetadataChange
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
from api.schema.service import ollama, state
from api.schema.tokens import DetokenizeRequest, TokenizeRequest

LEAVING = (
    "Closing the connection cancels the job, queued or running; with `background` it goes on. Send an "
    "`Idempotency-Key` header, and a repeated request finds the same job instead of making another. "
)
STREAMING = "With `stream` the answer comes as server-sent events; while the job waits, comments say its place. "
CANCELLING = "The answer is whole if it had ended already."
RESUMING = (
    "Without `stream` the whole answer, or 202 while it is not complete. With `stream` and `starting_after` a stream "
    "continues where a connection broke, at any API process."
)


def generating(summary: str, answer: type[BaseModel], body: type[BaseModel], says: str, pending: bool) -> Described:
    return Described(
        summary, answer, body, STREAMING + LEAVING + says, makes_jobs=True, is_streamed=True, may_be_pending=pending
    )


def fetching(summary: str, answer: type[BaseModel], *, pending: bool = False) -> Described:
    return Described(summary, answer, says=RESUMING, is_resumable=True, may_be_pending=pending)


def ollamas(
    summary: str, answer: type[BaseModel], body: type[BaseModel] | None = None, *, has_lines: bool = False,
    makes_jobs: bool = False, is_resumable: bool = False, is_open: bool = False, says: str = "",
) -> Described:  # fmt: skip
    return Described(
        summary, answer, body, says, error=answers.OllamaError, has_lines=has_lines, makes_jobs=makes_jobs,
        is_resumable=is_resumable, is_open=is_open,
    )  # fmt: skip


REFUSED = Described("Refused", is_refused=True, error=answers.OllamaError)
RERANK = Described("Rank documents for a query", answers.RerankAnswer, RerankRequest, makes_jobs=True)
SCORE = Described("Score pairs of texts", answers.ScoreAnswer, ScoreRequest, makes_jobs=True)
OPENAIS: Mapping[str, Described] = MappingProxyType(
    {
        "POST /v1/chat/completions": generating(
            "Chat", answers.ChatAnswer, ChatRequest,
            "Fields that would change the answer and that this server cannot honour are refused by name; unknown ones "
            "are ignored.", True,
        ),
        "GET /v1/chat/completions/{job_id}": fetching("Fetch or resume a chat", answers.ChatAnswer, pending=True),
        "POST /v1/chat/completions/{job_id}/cancel": Described("Cancel a chat", answers.ChatAnswer, says=CANCELLING),
        "GET /v1/chat/completions": Described(
            "Stored chats", answers.ItemList, says="Those that were asked for with `store`.", query=(*PAGES, ORDER)
        ),
        "POST /v1/chat/completions/{job_id}": Described(
            "Change a stored chat's metadata", answers.ChatAnswer, MetadataChange
        ),
        "DELETE /v1/chat/completions/{job_id}": Described("Delete a stored chat", answers.Deleted),
        "GET /v1/chat/completions/{job_id}/messages": Described(
            "The messages of a stored chat", answers.ItemList, query=(*PAGES, ORDER)
        ),
        "POST /v1/completions": generating("Complete a text", answers.TextAnswer, CompletionRequest, "", True),
        "GET /v1/completions/{answer_id}": fetching("Fetch or resume a text", answers.TextAnswer, pending=True),
        "POST /v1/completions/{answer_id}/cancel": Described("Cancel a text", answers.TextAnswer, says=CANCELLING),
        "POST /v1/responses": generating(
            "Respond", answers.ResponseAnswer, ResponsesRequest,
            "`previous_response_id` or `conversation` continue what was said before.", False,
        ),
        "GET /v1/responses/{response_id}": fetching("Fetch or resume a response", answers.ResponseAnswer),
        "POST /v1/responses/{response_id}/cancel": Described("Cancel a response", answers.ResponseAnswer),
        "DELETE /v1/responses/{response_id}": Described("Delete a response", answers.Deleted),
        "GET /v1/responses/{response_id}/input_items": Described(
            "The input items of a response", answers.ItemList, query=(*PAGES, ORDER)
        ),
        "POST /v1/responses/input_tokens": Described("Count tokens", answers.TokenCount, ResponsesRequest),
        "POST /v1/conversations": Described("Begin a conversation", state.ConversationAnswer, NewConversation),
        "GET /v1/conversations/{conversation_id}": Described("A conversation", state.ConversationAnswer),
        "POST /v1/conversations/{conversation_id}": Described(
            "Change a conversation's metadata", state.ConversationAnswer, MetadataChange
        ),
        "DELETE /v1/conversations/{conversation_id}": Described("Delete a conversation", answers.Deleted),
        "POST /v1/conversations/{conversation_id}/items": Described("Add items", answers.ItemList, AddedItems),
        "GET /v1/conversations/{conversation_id}/items": Described(
            "The items of a conversation", answers.ItemList, query=(*PAGES, ORDER)
        ),
        "GET /v1/conversations/{conversation_id}/items/{item_id}": Described(
            "An item of a conversation", state.ConversationItem
        ),
        "DELETE /v1/conversations/{conversation_id}/items/{item_id}": Described(
            "Remove an item", state.ConversationAnswer
        ),
        "POST /v1/embeddings": Described("Embed texts", answers.EmbeddingAnswer, EmbeddingRequest, makes_jobs=True),
    }
)  # fmt: skip
OTHERS: Mapping[str, Described] = MappingProxyType(
    {
        "POST /v1/messages": Described(
            "Chat in Anthropic's form", answers.MessageAnswer, MessagesRequest, STREAMING + LEAVING, makes_jobs=True,
            is_streamed=True, error=answers.MessagesError,
        ),
        "GET /v1/messages/{message_id}": Described(
            "Fetch or resume a message", answers.MessageAnswer, says=RESUMING, is_resumable=True,
            error=answers.MessagesError,
        ),
        "POST /v1/messages/count_tokens": Described(
            "Count tokens", answers.TokenCount, CountRequest, error=answers.MessagesError
        ),
        "POST /v1/rerank": RERANK,
        "POST /rerank": RERANK,
        "POST /v2/rerank": RERANK,
        "POST /v1/score": SCORE,
        "POST /score": SCORE,
        "POST /tokenize": Described("Text or conversation to token ids", answers.TokenizeAnswer, TokenizeRequest),
        "POST /detokenize": Described("Token ids to text", answers.DetokenizeAnswer, DetokenizeRequest),
        "POST /api/chat": ollamas(
            "Chat in Ollama's form", ollama.OllamaChatAnswer, OllamaChatRequest, has_lines=True, makes_jobs=True,
            says="Streams lines of JSON unless `stream` is false. Without `messages` it only asks for the model.",
        ),
        "POST /api/generate": ollamas(
            "Generate in Ollama's form", ollama.OllamaTextAnswer, OllamaGenerateRequest, has_lines=True,
            makes_jobs=True,
            says="Streams lines of JSON unless `stream` is false. Without a `prompt` it only asks for the model.",
        ),
        "GET /api/chat/{job_id}": ollamas(
            "Fetch or resume a chat", ollama.OllamaChatAnswer, has_lines=True, is_resumable=True
        ),
        "GET /api/generate/{job_id}": ollamas(
            "Fetch or resume a text", ollama.OllamaTextAnswer, has_lines=True, is_resumable=True
        ),
        "POST /api/embed": ollamas("Embed texts", ollama.OllamaVectors, OllamaEmbedRequest, makes_jobs=True),
        "POST /api/embeddings": ollamas("Embed a text", ollama.OllamaVector, OllamaEmbeddingsRequest, makes_jobs=True),
        "GET /api/tags": ollamas("The served models", ollama.OllamaTags),
        "GET /api/ps": ollamas("The loaded models", ollama.OllamaTags),
        "GET /api/version": ollamas("The version of Ollama's API", ollama.OllamaVersion, is_open=True),
        "POST /api/show": ollamas("One model", ollama.OllamaShown, OllamaModelRequest),
        "POST /api/pull": ollamas(
            "Done for a served model", ollama.OllamaStatus, OllamaModelRequest, has_lines=True
        ),
        "POST /api/create": REFUSED,
        "POST /api/copy": REFUSED,
        "POST /api/push": REFUSED,
        "DELETE /api/delete": REFUSED,
    }
)  # fmt: skip
