"""What Ollama's clients are told of models and of embeddings."""

from typing import Any, Literal

from api.schema.answers import OllamaAnswer, Shape


class OllamaMessageAnswer(Shape):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class OllamaCounted(OllamaAnswer):
    """Durations are in nanoseconds; the counts come with the last line."""

    done_reason: str | None = None
    total_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaChatAnswer(OllamaCounted):
    message: OllamaMessageAnswer


class OllamaTextAnswer(OllamaCounted):
    response: str


class OllamaTag(Shape):
    name: str
    model: str
    size: int
    digest: str
    details: dict[str, Any]


class OllamaTags(Shape):
    models: list[OllamaTag]


class OllamaVersion(Shape):
    version: str
    omni: str


class OllamaShown(Shape):
    template: str
    parameters: str
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaStatus(Shape):
    status: str


class OllamaVectors(Shape):
    model: str
    embeddings: list[list[float]]


class OllamaVector(Shape):
    embedding: list[float]
