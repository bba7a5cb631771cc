"""Ollama's API: the requests of POST /api/chat, /api/generate, /api/embed, /api/embeddings, /api/show and /api/pull."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field

from api.schema.base import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, Base, ForModel, KeepAlive, StopStrings
from api.schema.chat import Tool, ToolChoice
from api.schema.embeddings import MAX_INPUTS
from api.schema.unsupported import NOT_HERE, Refusal


class OllamaOptions(Base):
    """`options`: numbers may come as 40.0 or "40". Those that do not change the answer here are not listed."""

    model_config = ConfigDict(strict=False, extra="ignore", frozen=True)

    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, le=1_000_000)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)  # -1: any
    num_predict: int | None = None  # 0 and below: what the context holds
    stop: StopStrings | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)


class OllamaFunctionCall(Base):
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any] | None = None


class OllamaToolCall(Base):
    id: str | None = None
    function: OllamaFunctionCall


Images = Annotated[list[str], Field(max_length=MAX_PARTS)]  # base64, or data URLs


class OllamaMessage(Base):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(max_length=MAX_PARTS)] | None = None
    tool_name: str | None = Field(None, validation_alias=AliasChoices("tool_name", "name"))
    tool_call_id: str | None = None


def _as_format(value: Any) -> Any:
    return None if value in ("", {}) else value


class OllamaGenerating(ForModel):
    """Fields of chat and generate."""

    options: OllamaOptions | None = None
    format: Annotated[Literal["json"] | dict[str, Any] | None, BeforeValidator(_as_format)] = None
    think: bool | Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    stream: bool | None = None
    keep_alive: KeepAlive = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False


class OllamaChatRequest(OllamaGenerating):
    """POST /api/chat. Without messages it only asks for the model to be loaded."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None  # our extension: OpenAI's


class OllamaGenerateRequest(OllamaGenerating):
    """POST /api/generate. Without a prompt it only asks for the model to be loaded."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {
            "template": Refusal("is not supported: the model's own template is used"),
            "width": NOT_HERE,
            "height": NOT_HERE,
            "steps": NOT_HERE,
        }
    )

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    images: Images | None = None
    raw: bool | None = None


class OllamaEmbedRequest(ForModel):
    """POST /api/embed."""

    input: str | Annotated[list[str], Field(max_length=MAX_INPUTS)] | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1)
    keep_alive: KeepAlive = None


class OllamaEmbeddingsRequest(ForModel):
    """POST /api/embeddings, the older form, for one text."""

    prompt: str | None = None
    keep_alive: KeepAlive = None


class OllamaModelRequest(Base):
    """POST /api/show and /api/pull."""

    model: str = Field(min_length=1, max_length=256, validation_alias=AliasChoices("model", "name"))
    stream: bool | None = None
