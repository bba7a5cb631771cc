"""Anthropic's turns of content blocks -> chat messages."""

import json
from collections.abc import Sequence

from api.messages.blocks import readable, without_billing
from api.schema.chat import (
    FunctionCall,
    ImageUrl,
    Message,
    Part,
    ToolCall,
)
from api.schema.messages import BlockSource, ContentBlock, CountRequest, Turn
from common.errors import InvalidRequest


def messages_of(body: CountRequest) -> list[Message]:
    messages = []
    if system := without_billing(body.system or ""):
        messages.append(Message(role="system", content=system_of(system, "system")))
    for number, turn in enumerate(body.messages):
        param = f"messages[{number}]"
        if turn.role == "assistant":
            messages.append(assistant_message(turn, param))
        elif turn.role == "system":
            messages.append(Message(role="system", content=system_of(turn.content, param)))
        else:
            messages += user_messages(turn, param)
    return messages


def system_of(content: str | Sequence[ContentBlock], param: str) -> str:
    return content if isinstance(content, str) else text_of(list(readable(content)), param)


def user_messages(turn: Turn, param: str) -> list[Message]:
    """Tool results become messages of their own; the text around them is the user's."""
    if isinstance(turn.content, str):
        return [Message(role="user", content=turn.content)]
    messages: list[Message] = []
    texts: list[ContentBlock] = []
    for number, block in enumerate(turn.content):
        if block.type != "tool_result":
            texts.append(block)
            continue
        where = f"{param}.content[{number}]"
        if block.tool_use_id is None:
            raise InvalidRequest(f"'{where}': a tool_result needs 'tool_use_id'.", param=where)
        messages.append(Message(role="tool", tool_call_id=block.tool_use_id, content=result_of(block)))
    texts = list(readable(texts))
    if any(block.type == "image" for block in texts):
        messages.append(Message(role="user", content=[part_of(block, param) for block in texts]))
    elif texts or not messages:
        messages.append(Message(role="user", content=text_of(texts, param)))
    return messages


def result_of(block: ContentBlock) -> str | list[Part]:
    """A tool's result: its text, with its images if it has some. A line of text stands for a block of another type."""
    if isinstance(block.content, list):
        inner = list(readable(block.content))
    else:
        inner = [ContentBlock(type="text", text=block.content)] if isinstance(block.content, str) else []
    parts = [
        part_of(part, "tool_result")
        if part.type == "image" or part.text is not None
        else Part(type="text", text=f"[{part.type} left out: this server reads text and images only]")
        for part in inner
    ]
    if block.is_error:
        parts = _as_error(parts)
    if len(parts) > 1 or any(part.type == "image_url" for part in parts):
        return parts
    return parts[0].text or "" if parts else ""


def _as_error(parts: list[Part]) -> list[Part]:
    """The result of a call that has failed says so."""
    first = parts[0].text if parts and parts[0].type == "text" else None
    return [Part(type="text", text=f"Error: {first or ''}"), *parts[first is not None :]]


def part_of(block: ContentBlock, param: str) -> Part:
    if block.type != "image" or not isinstance(block.source, BlockSource):
        return Part(type="text", text=text_of([block], param))
    source = block.source
    url = f"data:{source.media_type};base64,{source.data}" if source.type == "base64" else source.url
    return Part(type="image_url", image_url=ImageUrl(url=url))


def assistant_message(turn: Turn, param: str) -> Message:
    if isinstance(turn.content, str):
        return Message(role="assistant", content=turn.content)
    calls = []
    for number, block in enumerate(turn.content):
        if block.type != "tool_use":
            continue
        if block.id is None or block.name is None:
            where = f"{param}.content[{number}]"
            raise InvalidRequest(f"'{where}': a tool_use needs 'id' and 'name'.", param=where)
        arguments = json.dumps(block.input or {}, ensure_ascii=False)
        calls.append(ToolCall(id=block.id, function=FunctionCall(name=block.name, arguments=arguments)))
    texts = [block for block in readable(turn.content) if block.type not in ("tool_use", "thinking")]
    thought = "".join(block.thinking or "" for block in turn.content if block.type == "thinking")
    return Message(
        role="assistant",
        content=text_of(texts, param),
        reasoning_content=thought or None,
        tool_calls=calls or None,
    )


def text_of(content: str | Sequence[ContentBlock], param: str) -> str:
    """Raises InvalidRequest for a block that is not text."""
    if isinstance(content, str):
        return content
    for number, block in enumerate(content):
        if block.type != "text" or block.text is None:
            where = f"{param}.content[{number}]"
            raise InvalidRequest(f"'{where}': {_untaken(block)}.", param=where)
    return "".join(block.text or "" for block in content)


def _untaken(block: ContentBlock) -> str:
    if block.type == "document" and isinstance(block.source, BlockSource):
        media = f" ({block.source.media_type})" if block.source.media_type else ""
        return f"a document's source must be of type 'text'; this one is {block.source.type!r}{media}"
    return f"blocks of type {block.type!r} cannot be taken here"
