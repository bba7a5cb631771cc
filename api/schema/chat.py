"""Chat completions: messages, tools and the request of POST /v1/chat/completions.

Forms that known clients send beside OpenAI's are brought into OpenAI's form here.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from api.schema.base import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, Base, MostTokens, Structured
from api.schema.old_calls import with_tool_calls, with_tools
from api.schema.unsupported import CHAT, LEGACY_MESSAGE, Refusal

FUNCTION_NAME = r"^[a-zA-Z0-9_.-]+$"
MAX_FUNCTION_NAME = 128  # Anthropic's limit; OpenAI's is 64
CHOICES = ("none", "auto", "required", "any")


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

    @model_validator(mode="before")
    @classmethod
    def text_alone_is_a_part(cls, value: Any) -> Any:
        return {"type": "text", "text": value} if isinstance(value, str) else value


CUSTOM_INPUT = "input"  # the one parameter of the function that stands for a custom tool

Parts = Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]


def _as_arguments(value: Any) -> Any:
    """Some clients send the object itself, or null for a function without parameters."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else "" if value is None else value


class FunctionCall(Base):
    name: str = Field(min_length=1)  # of any length: a model wrote it
    arguments: Annotated[str, BeforeValidator(_as_arguments, json_schema_input_type=str | dict[str, Any] | None)] = ""


def _as_function_call(value: Any) -> Any:
    """A call of a custom tool as a call of the function that the model is shown for it."""
    if not isinstance(value, dict) or value.get("type") != "custom" or not isinstance(value.get("custom"), dict):
        return value
    custom = value["custom"]
    arguments = json.dumps({CUSTOM_INPUT: custom.get("input", "")}, ensure_ascii=False)
    return {"id": value.get("id", ""), "function": {"name": custom.get("name"), "arguments": arguments}}


class ToolCall(Base):
    """`id` and `type` may be null: clients that put streamed calls together send what they have."""

    id: Annotated[str, BeforeValidator(lambda value: value or "", json_schema_input_type=str | None)] = ""
    type: Annotated[Literal["function"], BeforeValidator(lambda value: value or "function")] = "function"
    function: FunctionCall


AnyToolCall = Annotated[ToolCall, BeforeValidator(_as_function_call)]


class Message(Base):
    refused: ClassVar[Mapping[str, Refusal]] = LEGACY_MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: Annotated[list[AnyToolCall], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @model_validator(mode="before")
    @classmethod
    def old_calls_are_tool_calls(cls, value: Any) -> Any:
        return with_tool_calls(value)


class FunctionDefinition(Base):
    name: str = Field(min_length=1, max_length=MAX_FUNCTION_NAME, pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Base):
    type: Literal["function"] = "function"
    function: FunctionDefinition

    @model_validator(mode="before")
    @classmethod
    def flat_tool_is_a_function(cls, value: Any) -> Any:
        """Cursor sends tools in the form of /v1/responses or of Anthropic, by the model's name."""
        if not isinstance(value, dict) or "function" in value or "name" not in value:
            return value
        kind = value.get("type", "function")
        function = {name: value.get(name) for name in ("name", "description", "strict")}
        function["parameters"] = value.get("parameters") or value.get("input_schema")
        return {"type": "function" if kind == "custom" else kind, "function": function}


class CustomGrammar(Base):
    """The rules of a custom tool's input."""

    syntax: Literal["lark", "regex"]
    definition: str


class CustomFormat(Base):
    type: Literal["text", "grammar"]
    grammar: CustomGrammar | None = None


class CustomDefinition(Base):
    """A tool whose input is one text, under a grammar if it has one."""

    name: str = Field(min_length=1, max_length=MAX_FUNCTION_NAME, pattern=FUNCTION_NAME)
    description: str | None = None
    format: CustomFormat | None = None


class CustomTool(Base):
    type: Literal["custom"]
    custom: CustomDefinition


def _kind_of_tool(value: Any) -> str:
    if isinstance(value, dict):
        return "a custom tool" if value.get("type") == "custom" and "input_schema" not in value else "a function"
    return "a custom tool" if getattr(value, "type", None) == "custom" else "a function"


ChatTool = Annotated[
    Annotated[Tool, Tag("a function")] | Annotated[CustomTool, Tag("a custom tool")], Discriminator(_kind_of_tool)
]


class NamedFunction(Base):
    name: str


class NamedTool(Base):
    """A function, or a custom tool, which the model is shown as a function."""

    type: Literal["function"] = "function"
    function: NamedFunction

    @model_validator(mode="before")
    @classmethod
    def other_forms_are_functions(cls, value: Any) -> Any:
        """A custom tool, and a tool in the form of /v1/responses or of Anthropic, as tools themselves are taken."""
        if not isinstance(value, dict):
            return value
        kind = value.get("type", "function")
        if kind in ("function", "custom", "tool") and isinstance(value.get("name"), str) and kind not in value:
            return {"function": {"name": value["name"]}}
        return {"function": value.get("custom")} if kind == "custom" else value


class AllowedTools(Base):
    """A subset of the tools, in OpenAI's form."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolsChoice(Base):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _as_choice(value: Any) -> Any:
    """Anthropic's and Mistral's forms: {"type": "auto"}, "any"."""
    word = value.get("type") if isinstance(value, dict) else value
    return value if word not in CHOICES else "required" if word == "any" else word


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice, BeforeValidator(_as_choice)
]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]


class ThinkingSwitch(Base):
    """DeepSeek's `thinking`."""

    type: Literal["enabled", "disabled"]


class ChatRequest(Structured):
    """POST /v1/chat/completions."""

    refused: ClassVar[Mapping[str, Refusal]] = CHAT

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    # before the tools that they stand for, so that a refusal names them
    functions: list[FunctionDefinition] | None = Field(None, max_length=MAX_TOOLS)
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    max_completion_tokens: MostTokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[ChatTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    thinking: ThinkingSwitch | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    modalities: list[str] | None = None
    store: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def functions_are_tools(cls, value: Any) -> Any:
        return with_tools(value)

    @property
    def has_old_calls(self) -> bool:
        """The answer must have one `function_call`, OpenAI's form before `tool_calls`."""
        return (
            bool(self.functions)
            and self.parallel_tool_calls is False
            and self.tools is not None
            and [getattr(tool, "function", None) for tool in self.tools] == self.functions
        )
