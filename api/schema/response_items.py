"""Responses: the items of a conversation. Types that are not known here are read past, not refused."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from api.schema.base import MAX_OFFERED, Base, Metadata
from api.schema.chat import Parts
from api.schema.response_tools import ResponseTool

MAX_ID = 256
MAX_NEW_ITEMS = 20  # of a conversation, at once: OpenAI's limit

ItemId = Annotated[str, Field(max_length=MAX_ID)]
CallName = Annotated[str, Field(min_length=1)]  # of any length: a model wrote it


class MessageItem(Base):
    type: Literal["message"] = "message"
    id: ItemId | None = None
    role: Literal["user", "system", "developer", "assistant"]
    content: str | Parts


class ReasoningItem(Base):
    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: Parts | None = None
    content: Parts | None = None


class FunctionCallItem(Base):
    type: Literal["function_call"]
    id: ItemId | None = None
    call_id: ItemId
    namespace: CallName | None = None
    name: CallName
    arguments: str = ""


class CustomCallItem(Base):
    type: Literal["custom_tool_call"]
    id: ItemId | None = None
    call_id: ItemId
    namespace: CallName | None = None
    name: CallName
    input: str = ""


class CallOutputItem(Base):
    type: Literal["function_call_output", "custom_tool_call_output"]
    id: ItemId | None = None
    call_id: ItemId
    output: str | Parts


class LoadedToolsItem(Base):
    """Tools that the client found for the model: they are offered from here on."""

    type: Literal["tool_search_output", "additional_tools"]
    id: ItemId | None = None
    call_id: ItemId | None = None
    tools: list[ResponseTool] = Field(default=[], max_length=MAX_OFFERED)


class ReferenceItem(Base):
    """An item of an earlier response, by its id."""

    type: Literal["item_reference"] | None = "item_reference"
    id: ItemId


class BuiltInItem(Base):
    """A call of a built-in tool that the client ran itself, or its result: shown to the model as a function's."""

    type: Literal[
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "mcp_call",
    ]
    id: Any = None
    call_id: Any = None
    name: Any = None
    action: Any = None
    operation: Any = None
    arguments: Any = None
    output: Any = None
    error: Any = None


class OtherItem(Base):
    """An item of any other type. Nothing else of it is kept."""

    type: str = Field(max_length=MAX_ID)


KINDS: Mapping[str, str] = MappingProxyType(
    {
        "message": "a message",
        "reasoning": "a reasoning",
        "function_call": "a function call",
        "custom_tool_call": "a custom call",
        "function_call_output": "an output",
        "custom_tool_call_output": "an output",
        "tool_search_output": "loaded tools",
        "additional_tools": "loaded tools",
        "item_reference": "a reference",
        **dict.fromkeys(get_args(BuiltInItem.model_fields["type"].annotation), "a built-in tool's"),
    }
)


def _kind_of_item(value: Any) -> str:
    """The tag of an item's model; an item without a type is a message, or a reference if it has nothing but an id."""
    is_sent = isinstance(value, dict)
    kind = value.get("type") if is_sent else getattr(value, "type", None)
    if kind is None:
        return "a reference" if is_sent and value.keys() - {"type"} == {"id"} else "a message"
    return KINDS.get(kind, "another item") if isinstance(kind, str) else "another item"


InputItem = Annotated[
    Annotated[MessageItem, Tag("a message")]
    | Annotated[ReasoningItem, Tag("a reasoning")]
    | Annotated[FunctionCallItem, Tag("a function call")]
    | Annotated[CustomCallItem, Tag("a custom call")]
    | Annotated[CallOutputItem, Tag("an output")]
    | Annotated[LoadedToolsItem, Tag("loaded tools")]
    | Annotated[ReferenceItem, Tag("a reference")]
    | Annotated[BuiltInItem, Tag("a built-in tool's")]
    | Annotated[OtherItem, Tag("another item")],
    Discriminator(_kind_of_item),
]


NewItems = Annotated[list[InputItem], Field(max_length=MAX_NEW_ITEMS)]


class NewConversation(Base):
    """POST /v1/conversations."""

    items: NewItems | None = None
    metadata: Metadata | None = None


class AddedItems(Base):
    """POST /v1/conversations/{id}/items."""

    items: Annotated[NewItems, Field(min_length=1)]


class StoredItems(Base):
    """Items that were stored."""

    items: list[InputItem]
