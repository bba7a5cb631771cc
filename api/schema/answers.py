"""The shapes of our answers, as OpenAI and Anthropic publish them: for /openapi.json and for tests."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorDetail(Shape):
    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorBody(Shape):
    error: ErrorDetail


class OllamaError(Shape):
    error: str


class OllamaAnswer(Shape):
    model: str
    created_at: str
    done: bool


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, int] | None = None


class TopLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    content: list[ContentLogprob] | None
    refusal: list[ContentLogprob] | None = None


class CalledFunction(Shape):
    name: str
    arguments: str


class CalledTool(Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class CustomInput(Shape):
    name: str
    input: str


class CalledCustomTool(Shape):
    id: str
    type: Literal["custom"]
    custom: CustomInput


class AnswerMessage(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    tool_calls: list[CalledTool | CalledCustomTool] | None = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChatChoice(Shape):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatAnswer(Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class FunctionPiece(Shape):
    name: str | None = None
    arguments: str | None = None


class CustomPiece(Shape):
    name: str | None = None
    input: str | None = None


class CallPiece(Shape):
    index: int
    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: FunctionPiece | None = None
    custom: CustomPiece | None = None


class ChatDelta(Shape):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None


class ChunkChoice(Shape):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None


class ChatChunk(Shape):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class LegacyLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Shape):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class TextAnswer(Shape):
    """A completion, or one of its chunks."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class TokenizeAnswer(Shape):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class DetokenizeAnswer(Shape):
    prompt: str


class Deleted(Shape):
    id: str
    deleted: bool


class ResponseAnswer(Shape):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class ItemList(Shape):
    object: Literal["list"]
    data: list[dict[str, Any]]


class MessageAnswer(Shape):
    """Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class TokenCount(Shape):
    input_tokens: int


class MessagesErrorDetail(Shape):
    type: str
    message: str


class MessagesError(Shape):
    """Anthropic's error."""

    type: Literal["error"]
    error: MessagesErrorDetail


class Embedding(Shape):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(Shape):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: dict[str, int]


class RerankAnswer(Shape):
    id: str
    model: str
    results: list[dict[str, Any]]
    usage: dict[str, int]


class ScoreAnswer(Shape):
    id: str
    data: list[dict[str, Any]]
    usage: dict[str, int]
