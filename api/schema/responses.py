"""Responses: the request of POST /v1/responses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from api.schema.base import MAX_MESSAGES, MAX_OFFERED, Base, Sampling
from api.schema.response_items import InputItem
from api.schema.response_tools import ResponseTool, ResponseToolChoice
from api.schema.unsupported import CHAT, NOT_HERE, OLD_CALLS, Refusal

MAX_WORD = 64

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {
        **CHAT,
        **OLD_CALLS,
        "prompt": Refusal("(a stored template) is not supported; send 'instructions' and 'input'"),
        "context_management": NOT_HERE,
        "n": Refusal("is not part of this endpoint", (1,)),
        "max_tokens": Refusal("is not part of this endpoint; use 'max_output_tokens'"),
        "response_format": Refusal("is not part of this endpoint; use 'text.format'"),
        "messages": Refusal("is not part of this endpoint; use 'input'"),
    }
)


Word = Annotated[str, Field(max_length=MAX_WORD)]


class ReasoningOptions(Base):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] | None = None
    summary: Word | None = None


class TextFormat(Base):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Base):
    format: TextFormat | None = None
    verbosity: Word | None = None


class ConversationReference(Base):
    id: str = Field(min_length=1, max_length=256)


def _as_reference(value: Any) -> Any:
    """The id alone is OpenAI's other form."""
    return {"id": value} if isinstance(value, str) else value


class ResponsesRequest(Sampling):
    """POST /v1/responses."""

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED

    input: str | Annotated[list[InputItem], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    instructions: str | None = None
    previous_response_id: Annotated[
        Annotated[str, Field(max_length=256)] | None, BeforeValidator(lambda value: None if value == "" else value)
    ] = None
    conversation: Annotated[
        ConversationReference | None,
        BeforeValidator(_as_reference, json_schema_input_type=ConversationReference | str | None),
    ] = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[ResponseTool] | None = Field(None, max_length=MAX_OFFERED)
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    include: list[str] | None = Field(None, max_length=16)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    store: bool | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
