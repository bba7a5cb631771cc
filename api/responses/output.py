"""The items of a response's output, and how the events of each kind are named."""

from dataclasses import dataclass, field
from typing import Any

from api.reading.json_text import object_in


@dataclass(frozen=True, slots=True)
class ItemKind:
    type: str
    prefix: str  # of the ids
    text_event: str = ""  # of its text, as in `response.output_text.delta`; empty: the text has no events
    text_field: str = "text"  # that holds the whole text at the end
    part_event: str = ""  # of the part that holds the text; empty: the item itself holds it
    part_number: str = ""  # the field with the part's number in its events

    @property
    def is_call(self) -> bool:
        return not self.part_event


MESSAGE = ItemKind("message", "msg", "output_text", part_event="content_part", part_number="content_index")
REASONING = ItemKind("reasoning", "rs", "reasoning_text", part_event="content_part", part_number="content_index")
SUMMARY = ItemKind(
    "reasoning", "rs", "reasoning_summary_text", part_event="reasoning_summary_part", part_number="summary_index"
)
FUNCTION_CALL = ItemKind("function_call", "fc", "function_call_arguments", "arguments")
CUSTOM_CALL = ItemKind("custom_tool_call", "ctc", "custom_tool_call_input", "input")
SEARCH_CALL = ItemKind("tool_search_call", "tsc")


@dataclass(slots=True)
class OutputItem:
    """An output item whose text is still growing."""

    id: str
    kind: ItemKind
    call: dict[str, str] = field(default_factory=dict)  # call_id, name, namespace
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    status: str = "in_progress"
    is_whole: bool = True  # False for a call until its arguments are complete

    def part(self) -> dict[str, Any]:
        if self.kind is MESSAGE:
            return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}
        return {"type": "reasoning_text" if self.kind is REASONING else "summary_text", "text": self.text}

    def whole_text(self) -> dict[str, Any]:
        """The fields of the event at the end of the text."""
        name = {"name": self.call["name"]} if self.kind is FUNCTION_CALL else {}
        logprobs = {"logprobs": list(self.logprobs)} if self.kind is MESSAGE else {}
        return name | {self.kind.text_field: self.text} | logprobs

    def shown(self, *, with_parts: bool = True) -> dict[str, Any]:
        """OpenAI's item."""
        head = {"id": self.id, "type": self.kind.type, "status": self.status}
        if self.kind is SEARCH_CALL:
            arguments = (object_in(self.text) if self.is_whole else None) or {}  # without: a search for nothing
            return head | {"call_id": self.call["call_id"], "execution": "client", "arguments": arguments}
        if self.kind.is_call:
            return head | self.call | {self.kind.text_field: self.text}
        parts = [self.part()] if with_parts else []
        if self.kind is MESSAGE:
            return head | {"role": "assistant", "content": parts}
        return head | ({"summary": [], "content": parts} if self.kind is REASONING else {"summary": parts})
