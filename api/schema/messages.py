"""Messages (Anthropic's API): the requests of POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from api.schema.base import (
    MAX_MESSAGES,
    MAX_OFFERED,
    MAX_PARTS,
    MAX_TIMEOUT_S,
    MIN_TIMEOUT_S,
    Base,
    ForModel,
    Label,
    NotBefore,
    StopStrings,
    StreamOptions,
)
from api.schema.chat import FUNCTION_NAME, MAX_FUNCTION_NAME
from api.schema.unsupported import NOT_HERE, Refusal

TOOL_SEARCH = "tool_search_tool_"
SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", TOOL_SEARCH, "advisor_", "mcp_toolset")

NO_BACKGROUND = Refusal("is not supported for messages; /v1/chat/completions and /v1/responses have it")

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {
        "mcp_servers": Refusal("is not supported: this server fetches nothing from the network"),
        "container": NOT_HERE,
        "background": NO_BACKGROUND,
        "background_options": NO_BACKGROUND,
    }
)


class BlockSource(Base):
    """Where an image or a document is."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: "str | ContentBlocks | None" = None


class ContentBlock(Base):
    """One content block. What its type requires is checked when it becomes a chat message."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = Field(None, min_length=1, max_length=256)
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | ContentBlocks | dict[str, Any] | None" = None
    is_error: bool | None = None
    source: BlockSource | str | None = None
    title: str | None = None
    context: str | None = None
    tool_name: str | None = None


ContentBlocks = Annotated[list[ContentBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


class Turn(Base):
    role: Literal["user", "assistant", "system"]
    content: str | ContentBlocks


def _offered_here(tools: Any) -> Any:
    """The tools without those that Anthropic's own servers run, which a model may do without.

    Without their search for tools, no tool is deferred.
    """
    if not isinstance(tools, list):
        return tools
    kinds = [str(tool.get("type")) if isinstance(tool, dict) else "" for tool in tools]
    ours = [tool for tool, kind in zip(tools, kinds, strict=True) if not kind.startswith(SERVER_TOOLS)]
    if any(kind.startswith(TOOL_SEARCH) for kind in kinds):
        return [tool | {"defer_loading": False} if isinstance(tool, dict) else tool for tool in ours]
    return ours


class MessagesTool(Base):
    type: Literal["custom"] | None = "custom"
    name: str = Field(min_length=1, max_length=MAX_FUNCTION_NAME, pattern=FUNCTION_NAME)
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    defer_loading: bool | None = None


class MessagesToolChoice(Base):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class MessagesThinking(Base):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: str | None = None


class MessagesFormat(Base):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Base):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: MessagesFormat | None = None


class MessagesMetadata(Base):
    user_id: Label | None = None


class CountRequest(ForModel):
    """POST /v1/messages/count_tokens."""

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: str | ContentBlocks | None = None
    tools: Annotated[
        Annotated[list[MessagesTool], Field(max_length=MAX_OFFERED)] | None, BeforeValidator(_offered_here)
    ] = None
    tool_choice: MessagesToolChoice | None = None
    thinking: MessagesThinking | None = None
    output_config: OutputConfig | None = None
    output_format: MessagesFormat | None = None
    metadata: MessagesMetadata | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: StopStrings | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)
    not_before: NotBefore | None = None
