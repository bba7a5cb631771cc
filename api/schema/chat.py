"""Chat completions: messages, tools and the request of POST /v1/chat/completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from api.schema.base import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, Base, Structured
from api.schema.unsupported import CHAT, LEGACY_MESSAGE, Refusal


class ImageUrl(Base):
    url: str
    detail: str | None = None


def _as_image(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Part(Base):
    """One content part. Whether the model accepts its type is checked when the prompt is rendered."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[ImageUrl | None, BeforeValidator(_as_image, json_schema_input_type=ImageUrl | str | None)] = (
        None
    )


Parts = Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]


class FunctionCall(Base):
    name: str = Field(min_length=1, max_length=256)
    arguments: str = ""


class ToolCall(Base):
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Base):
    refused: ClassVar[Mapping[str, Refusal]] = LEGACY_MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class FunctionDefinition(Base):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Base):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Base):
    name: str


class NamedTool(Base):
    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(Base):
    """A subset of the tools, in OpenAI's form."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolsChoice(Base):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice


class ThinkingSwitch(Base):
    """DeepSeek's `thinking`."""

    type: Literal["enabled", "disabled"]


class ChatRequest(Structured):
    """POST /v1/chat/completions."""

    refused: ClassVar[Mapping[str, Refusal]] = CHAT

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking: ThinkingSwitch | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    modalities: list[str] | None = None
