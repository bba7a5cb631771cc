"""Input items of /v1/responses -> chat messages."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from api.responses.tools import names_in, shown_name
from api.schema.chat import CUSTOM_INPUT, FunctionCall, Message, Part, ToolCall
from api.schema.response_items import (
    BuiltInItem,
    CallOutputItem,
    CustomCallItem,
    FunctionCallItem,
    InputItem,
    LoadedToolsItem,
    MessageItem,
    ReasoningItem,
)
from common.errors import InvalidRequest

# Calls of built-in tools that the client may have run, and the field with their arguments.
ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "local_shell_call": "action",
        "shell_call": "action",
        "apply_patch_call": "operation",
        "tool_search_call": "arguments",
        "mcp_call": "arguments",
    }
)
OUTPUTS = ("local_shell_call_output", "shell_call_output", "apply_patch_call_output")
FILES = ("input_file", "input_audio", "input_video")
COMPACTION = "compaction_trigger"
MESSAGE = re.compile(r"messages\[(\d+)\]")


def messages_of(instructions: str | None, items: Iterable[InputItem]) -> list[Message]:
    """The instructions, then every item in order. Raises InvalidRequest."""
    turns = turns_after(instructions)
    for item in items:
        turns.add(item)
    turns.end_assistant()
    if not turns.messages:
        raise InvalidRequest("'input' has no message.", param="input")
    return turns.messages


def turns_after(instructions: str | None) -> "Turns":
    return Turns([Message(role="system", content=instructions)] if instructions else [])


@contextmanager
def blaming(known: Collection[str], instructions: str | None, items: Sequence[InputItem]) -> Iterator[None]:
    """In the block, refusals of a message name the item that it was made of, if its id is one of `known`."""
    try:
        yield
    except InvalidRequest as refused:
        item = item_of(refused.param or "", instructions, items)
        if isinstance(item, MessageItem) and item.id in known:
            refused.message += f" This is in the item '{item.id}', which came before this request."
        raise


def item_of(param: str, instructions: str | None, items: Iterable[InputItem]) -> InputItem | None:
    """The item that a message was made of, which `param` names as in 'messages[3].content[0]'."""
    place = MESSAGE.match(param)
    if place is None:
        return None
    turns = turns_after(instructions)
    for item in items:
        turns.add(item)
        if len(turns.messages) > int(place[1]):
            return item
    return None


@dataclass(slots=True)
class Turns:
    """Collects items into messages: reasoning, text and calls of one assistant turn are one message."""

    messages: list[Message]
    reasoning: str = ""
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, item: InputItem) -> None:
        if isinstance(item, MessageItem):
            self._message(item)
        elif isinstance(item, ReasoningItem):
            self.reasoning += "".join(part.text or "" for part in item.content or item.summary or ())
        elif isinstance(item, FunctionCallItem):
            self._call(item.call_id, shown_name(item.namespace, item.name), item.arguments or "{}")
        elif isinstance(item, CustomCallItem):
            self._call(item.call_id, shown_name(item.namespace, item.name), written({CUSTOM_INPUT: item.input}))
        elif isinstance(item, CallOutputItem):
            self._output(item.call_id, shown_result(item.output))
        elif isinstance(item, LoadedToolsItem):
            if item.call_id:
                self._output(item.call_id, written({"tools": names_in(item.tools)}))  # the prompt describes them
        elif isinstance(item, BuiltInItem):
            self._built_in(item)
        elif item.type == COMPACTION:
            raise InvalidRequest(
                f"'{COMPACTION}': this server does not compact conversations; 'truncation': 'auto' drops the oldest "
                "turns.",
                param="input",
            )

    def _message(self, item: MessageItem) -> None:
        if item.role == "assistant":
            if self.calls:
                self.end_assistant()
            self.content.append(text_of(item.content))
        else:
            self.end_assistant()
            self.messages.append(Message(role=item.role, content=readable(item.content)))

    def _built_in(self, item: BuiltInItem) -> None:
        call_id = next((value for value in (item.call_id, item.id) if isinstance(value, str)), "")
        if item.type in OUTPUTS:
            self._output(call_id, written(item.output))
            return
        name = item.name if isinstance(item.name, str) and item.name else item.type.removesuffix("_call")
        self._call(call_id, name, written(getattr(item, ARGUMENTS[item.type])))
        if item.type == "mcp_call":  # the result is in the same item
            self._output(call_id, written(item.error if item.output is None else item.output))

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        function = FunctionCall.model_construct(name=name, arguments=arguments)  # with its namespace it may be long
        self.calls.append(ToolCall.model_construct(id=call_id, type="function", function=function))

    def _output(self, call_id: str, output: str | list[Part]) -> None:
        self.end_assistant()
        self.messages.append(Message(role="tool", tool_call_id=call_id, content=output))

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


def readable(content: str | list[Part]) -> str | list[Part]:
    """Without the parts that only OpenAI can read."""
    return content if isinstance(content, str) else [part for part in content if part.type != "encrypted_content"]


def shown_result(output: str | list[Part]) -> str | list[Part]:
    """A tool's result, with a line of text for each file: a refusal would end an agent's session."""
    if isinstance(output, str):
        return output
    return [
        Part(type="text", text=f"[{part.type} left out: this server reads text and images only]")
        if part.type in FILES
        else part
        for part in readable(output)
        if isinstance(part, Part)
    ]


def text_of(content: str | list[Part]) -> str:
    """An assistant's words; other parts have none."""
    return content if isinstance(content, str) else "".join(part.text or part.refusal or "" for part in content)


def written(value: Any) -> str:
    """A value as the model is shown it: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)
