"""Input items of /v1/responses -> chat messages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.schema.chat import (
    FunctionCall,
    Message,
    Part,
    ToolCall,
)
from api.schema.responses import InputItem, ResponsesRequest
from common.errors import InvalidRequest


def messages_of(body: ResponsesRequest, context: Sequence[dict[str, Any]]) -> list[Message]:
    """The instructions, then every item in order."""
    known = [InputItem.model_validate(item) for item in context]
    own = [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    ids = {item.id for item in known}
    turns = Turns([Message(role="system", content=body.instructions)] if body.instructions else [])
    for item in known:
        turns.add(item, "previous_response_id")
    for number, item in enumerate(own):
        if item.type != "item_reference":
            turns.add(item, f"input[{number}]")
        elif item.id not in ids:
            raise InvalidRequest(
                f"'input[{number}]' refers to {item.id!r}, which is not an item of previous_response_id.",
                param=f"input[{number}].id",
            )
    turns.end_assistant()
    if not turns.messages:
        raise InvalidRequest("'input' has no message.", param="input")
    return turns.messages


@dataclass(slots=True)
class Turns:
    """Collects items into messages: reasoning, text and calls of one assistant turn are one message."""

    messages: list[Message]
    reasoning: str = ""
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, item: InputItem, param: str) -> None:
        if item.type == "reasoning":
            parts = item.content if isinstance(item.content, list) and item.content else item.summary
            self.reasoning += "".join(part.text or "" for part in parts or ())
        elif item.type == "function_call":
            if item.name is None or item.call_id is None:
                raise InvalidRequest(f"'{param}': a function_call needs 'name' and 'call_id'.", param=param)
            self.calls.append(
                ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments or "{}"))
            )
        elif item.type == "function_call_output":
            if item.output is None or item.call_id is None:
                raise InvalidRequest(f"'{param}': a function_call_output needs 'call_id' and 'output'.", param=param)
            self.end_assistant()
            self.messages.append(Message(role="tool", tool_call_id=item.call_id, content=item.output))
        elif item.role is None or item.content is None:
            raise InvalidRequest(f"'{param}': a message needs 'role' and 'content'.", param=param)
        elif item.role == "assistant":
            if self.calls:
                self.end_assistant()
            self.content.append(_text(item.content, param))
        else:
            self.end_assistant()
            self.messages.append(Message(role=item.role, content=item.content))

    def end_assistant(self) -> None:
        """Close the assistant turn, if one is open."""
        if self.reasoning or self.content or self.calls:
            self.messages.append(
                Message(
                    role="assistant",
                    content="".join(self.content) if self.content else None,
                    reasoning_content=self.reasoning or None,
                    tool_calls=self.calls or None,
                )
            )
        self.reasoning, self.content, self.calls = "", [], []


def _text(content: str | list[Part], param: str) -> str:
    if isinstance(content, str):
        return content
    if unknown := next((part.type for part in content if part.type not in ("output_text", "text", "refusal")), None):
        raise InvalidRequest(f"'{param}': an assistant's message has no parts of type {unknown!r}.", param=param)
    return "".join(part.text or part.refusal or "" for part in content)
