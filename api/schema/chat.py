"""Pydantic models of what clients send: the types and ranges that api/schema/parse.py holds a body to.

Unknown fields are accepted and ignored, because IDEs send many; docs/api/inference.md lists each known one.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from api.schema.unsupported import CHAT, LEGACY_MESSAGE, Refusal

MAX_N = 16
MAX_STOP = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 1024
MAX_TOOLS = 128
MAX_MESSAGES = 4096
MAX_PARTS = 4096  # of one message
MAX_METADATA = 16  # OpenAI's limits, like the next two
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MAX_SAFETY_IDENTIFIER = 128
MAX_MARK = 512  # of `user` and the like, for which OpenAI names no limit
MIN_TIMEOUT_S = 0.001
MAX_TIMEOUT_S = 86_400.0


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
    Field(max_length=MAX_STOP),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]


class Base(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    refused: ClassVar[Mapping[str, Refusal]] = {}  # known fields that would change the answer and that we cannot honour


Mark = Annotated[str, Field(max_length=MAX_MARK)]
Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_METADATA_KEY)], Annotated[str | None, Field(max_length=MAX_METADATA_VALUE)]
    ],
    Field(max_length=MAX_METADATA),
]


class Marked(Base):
    """What callers note on a request. It changes nothing in the answer, and is bounded because some of it is kept."""

    metadata: Metadata | None = None
    user: Mark | None = None
    safety_identifier: str | None = Field(None, max_length=MAX_SAFETY_IDENTIFIER)
    prompt_cache_key: Mark | None = None


class ImageUrl(Base):
    url: str
    detail: str | None = None


def _as_image(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Part(Base):
    """One content part; what kinds a model takes is checked when the prompt is made."""

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


class Function(Base):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Base):
    type: Literal["function"]
    function: Function


class NamedFunction(Base):
    name: str


class NamedTool(Base):
    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(Base):
    """OpenAI's way to offer some of the tools only."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolsChoice(Base):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice


class JsonSchema(Base):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Base):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")  # llama.cpp's place for it


class ThinkingSwitch(Base):
    """DeepSeek's `thinking`."""

    type: Literal["enabled", "disabled"]


class StreamOptions(Base):
    include_usage: bool | None = None
    include_event_ids: bool | None = None  # ours: the reader resumes by the numbers of chunks


class Sampling(Marked):
    """What chat and completions share. None means the default of docs/api/inference.md."""

    model: str = Field(min_length=1, max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: dict[str, float] | None = Field(None, max_length=MAX_LOGIT_BIAS)
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: StopStrings | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=64)
    ignore_eos: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    priority: int | None = Field(None, ge=-100, le=100)  # the lower, the earlier; below 0 needs a key with that right
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)

    @field_validator("logit_bias")
    @classmethod
    def bias_is_bounded(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (value or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) <= 9):
                raise ValueError("keys must be token ids")
            if not -100 <= bias <= 100:
                raise ValueError("values must be between -100 and 100")
        return value


class Structured(Sampling):
    """What an answer's text must look like, under OpenAI's name and under those of other servers."""

    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | str | None = None
    skip_special_tokens: bool | None = None


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
