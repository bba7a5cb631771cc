"""/v1/messages in the words of chat: its blocks are messages, its options are a chat request's."""

import json
from collections.abc import Sequence
from typing import Any

from api.schema.base import JsonSchema, ResponseFormat
from api.schema.chat import (
    ChatRequest,
    FunctionCall,
    FunctionDefinition,
    ImageUrl,
    Message,
    NamedFunction,
    NamedTool,
    Part,
    ThinkingSwitch,
    Tool,
    ToolCall,
    ToolChoice,
)
from api.schema.messages import ContentBlock, CountRequest, MessagesFormat, MessagesRequest, MessagesToolChoice, Turn
from common.errors import InvalidRequest


def chat_request(body: CountRequest) -> ChatRequest:
    """The same request for chat. Raises InvalidRequest."""
    messages = messages_of(body)
    choice = body.tool_choice
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "tools": [
            Tool(
                type="function",
                function=FunctionDefinition(
                    name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
                ),
            )
            for tool in body.tools or ()
        ],
        "tool_choice": tool_choice_of(choice),
        "parallel_tool_calls": not (choice is not None and choice.disable_parallel_tool_use),
        "thinking": ThinkingSwitch(type="disabled" if body.thinking.type == "disabled" else "enabled")
        if body.thinking
        else None,
        "reasoning_effort": body.output_config.effort if body.output_config else None,
        "response_format": format_of((body.output_config and body.output_config.format) or body.output_format),
        "continue_final_message": messages[-1].role == "assistant" and not messages[-1].tool_calls,
    }
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stream": body.stream,
            "timeout": body.timeout,
        }
    return ChatRequest.model_construct(**fields)


def messages_of(body: CountRequest) -> list[Message]:
    messages = []
    if body.system:
        messages.append(Message(role="system", content=text_of(body.system, "system")))
    for number, turn in enumerate(body.messages):
        param = f"messages[{number}]"
        if turn.role == "assistant":
            messages.append(assistant_message(turn, param))
        elif turn.role == "system":
            messages.append(Message(role="system", content=text_of(turn.content, param)))
        else:
            messages += user_messages(turn, param)
    return messages


def user_messages(turn: Turn, param: str) -> list[Message]:
    """Results of calls are messages of their own; the text around them is the user's."""
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
        result = text_of(block.content or "", where)
        content = f"Error: {result}" if block.is_error else result
        messages.append(Message(role="tool", tool_call_id=block.tool_use_id, content=content))
    if any(block.type == "image" for block in texts):
        messages.append(Message(role="user", content=[part_of(block, param) for block in texts]))
    elif texts or not messages:
        messages.append(Message(role="user", content=text_of(texts, param)))
    return messages


def part_of(block: ContentBlock, param: str) -> Part:
    if block.type != "image" or block.source is None:
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
    said = [block for block in turn.content if block.type not in ("tool_use", "thinking", "redacted_thinking")]
    thought = "".join(block.thinking or "" for block in turn.content if block.type == "thinking")
    return Message(
        role="assistant",
        content=text_of(said, param),
        reasoning_content=thought or None,
        tool_calls=calls or None,
    )


def text_of(content: str | Sequence[ContentBlock], param: str) -> str:
    """Raises InvalidRequest for a block that is no text."""
    if isinstance(content, str):
        return content
    for number, block in enumerate(content):
        if block.type != "text" or block.text is None:
            where = f"{param}.content[{number}]"
            raise InvalidRequest(f"'{where}': blocks of type {block.type!r} cannot be taken here.", param=where)
    return "".join(block.text or "" for block in content)


def tool_choice_of(choice: MessagesToolChoice | None) -> ToolChoice | None:
    if choice is None or choice.type == "auto":
        return None
    if choice.type == "none":
        return "none"
    if choice.type == "any":
        return "required"
    if choice.name is None:
        raise InvalidRequest("'tool_choice.name' is required with type tool.", param="tool_choice.name")
    return NamedTool(function=NamedFunction(name=choice.name))


def format_of(wanted: MessagesFormat | None) -> ResponseFormat | None:
    if wanted is None:
        return None
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=wanted.schema_, strict=True))
