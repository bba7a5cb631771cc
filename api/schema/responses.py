"""Responses: the request of POST /v1/responses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.schema.base import MAX_MESSAGES, MAX_TOOLS, Base, Sampling
from api.schema.chat import NamedFunction, Parts
from api.schema.unsupported import CHAT, NOT_HERE, Refusal

MAX_ID = 256
MAX_WORD = 64

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {
        **CHAT,
        "prompt": Refusal("(a stored template) is not supported; send 'instructions' and 'input'"),
        "conversation": Refusal("is not supported; use 'previous_response_id'"),
        "context_management": NOT_HERE,
        "truncation": Refusal("'auto' is not supported; shorten the input", ("disabled",)),
        "n": Refusal("is not part of this endpoint", (1,)),
        "max_tokens": Refusal("is not part of this endpoint; use 'max_output_tokens'"),
        "messages": Refusal("is not part of this endpoint; use 'input'"),
    }
)


Word = Annotated[str, Field(max_length=MAX_WORD)]


class InputItem(Base):
    """An input item: a message, a function call, its output, reasoning, or a reference to an earlier item."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
    id: str | None = Field(None, max_length=MAX_ID)
    role: Literal["user", "system", "developer", "assistant"] | None = None
    content: str | Parts | None = None
    call_id: str | None = Field(None, max_length=MAX_ID)
    name: str | None = Field(None, min_length=1, max_length=256)
    arguments: str | None = None
    output: str | Parts | None = None
    summary: Parts | None = None


class ResponseTool(Base):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(NamedFunction):
    type: Literal["function"]


class AllowedChoice(Base):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[FunctionChoice] = Field(min_length=1, max_length=MAX_TOOLS)


class ReasoningOptions(Base):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
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


class ResponsesRequest(Sampling):
    """POST /v1/responses."""

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=256)
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[ResponseTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    include: list[str] | None = Field(None, max_length=16)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    store: bool | None = None
    max_tool_calls: int | None = None
    service_tier: Word | None = None
    chat_template_kwargs: dict[str, Any] | None = None
