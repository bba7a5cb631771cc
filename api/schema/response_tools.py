"""Responses: tools and `tool_choice`. Tools that only their provider could run are known by their type alone."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from api.schema.base import MAX_OFFERED, Base
from api.schema.chat import FUNCTION_NAME, MAX_FUNCTION_NAME

ToolName = Annotated[str, Field(min_length=1, max_length=MAX_FUNCTION_NAME, pattern=FUNCTION_NAME)]


class FunctionTool(Base):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class InputFormat(Base):
    """The form of a custom tool's input."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class FreeformTool(Base):
    """A tool whose input is one text."""

    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: InputFormat | None = None


class SearchTool(Base):
    """A function by which the client finds further tools for the model."""

    type: Literal["tool_search"]
    execution: Literal["client"]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ProviderTool(Base):
    """A tool that OpenAI runs, such as web_search, or of a type that is not known here."""

    type: str


KINDS: Mapping[str, str] = MappingProxyType(
    {"function": "a function", "custom": "a custom tool", "namespace": "a namespace", "tool_search": "a search"}
)


def _kind_of_tool(value: Any) -> str:
    """The tag of a tool's model."""
    read = value.get if isinstance(value, dict) else partial(getattr, value)
    kind = str(read("type", None))
    is_known = kind != "tool_search" or read("execution", None) == "client"
    return KINDS.get(kind, "a provider's tool") if is_known else "a provider's tool"


MemberTool = Annotated[
    Annotated[FunctionTool, Tag("a function")]
    | Annotated[FreeformTool, Tag("a custom tool")]
    | Annotated[SearchTool, Tag("a search")]
    | Annotated[ProviderTool, Tag("a provider's tool")],
    Discriminator(_kind_of_tool),
]


class NamespaceTool(Base):
    """Tools under a common name, which their calls repeat."""

    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: list[MemberTool] = Field(max_length=MAX_OFFERED)


ResponseTool = Annotated[
    Annotated[FunctionTool, Tag("a function")]
    | Annotated[FreeformTool, Tag("a custom tool")]
    | Annotated[NamespaceTool, Tag("a namespace")]
    | Annotated[SearchTool, Tag("a search")]
    | Annotated[ProviderTool, Tag("a provider's tool")],
    Discriminator(_kind_of_tool),
]


class ToolReference(Base):
    """A tool that `tool_choice` names."""

    type: str
    name: str | None = None
    namespace: str | None = None


class AllowedChoice(Base):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolReference] = Field(min_length=1, max_length=MAX_OFFERED)


def _kind_of_choice(value: Any) -> str:
    """The tag of a choice's model."""
    if isinstance(value, str):
        return "a word"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "some tools" if kind == "allowed_tools" else "a tool"


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a word")]
    | Annotated[AllowedChoice, Tag("some tools")]
    | Annotated[ToolReference, Tag("a tool")],
    Discriminator(_kind_of_choice),
]
