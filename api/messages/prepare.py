"""A messages request -> the equivalent chat request, prepared."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from api.chat.prepare import ChatInput, chat_input
from api.jobs.call import Call
from api.messages.blocks import referenced_tools
from api.messages.chunks import MessageMeta
from api.messages.turns import messages_of
from api.process.offload import offload
from api.request.field_names import named
from api.request.submission import Prepared, QueueOptions, new_id
from api.schema.base import JsonSchema, ResponseFormat
from api.schema.chat import (
    ChatRequest,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    ThinkingSwitch,
    Tool,
    ToolChoice,
)
from api.schema.messages import CountRequest, MessagesFormat, MessagesRequest, MessagesTool, MessagesToolChoice
from common.errors import ContextLengthExceeded, InvalidRequest

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "messages": "messages",
        "tools": "tools",
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format.json_schema.schema": "output_config.format.schema",
        "response_format": "output_config.format",
    }
)


def prepare(call: Call[MessagesRequest]) -> Prepared[MessageMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    body = offload(chat_request, call.body)
    chat = input_of(body, call)
    meta = MessageMeta(
        id=new_id("msg_"),
        model=body.model,
        created=int(time.time()),
        num_prompt_tokens=len(chat.prompt.ids),
        stop=call.body.stop_sequences or [],
        tier=call.tier,
        reading=chat.options,
    )
    return Prepared(meta, [chat.request(meta.id, call)], QueueOptions.of(body))


def count_tokens(call: Call[CountRequest]) -> int:
    return len(input_of(offload(chat_request, call.body), call).prompt.ids)


def input_of(body: ChatRequest, call: Call[Any]) -> ChatInput:
    """Its refusals have Anthropic's names and, for a prompt that is too long, the words from which Claude Code reads
    by how much it must shorten the conversation.
    """
    with named(FIELDS):
        try:
            return chat_input(body, call.encoder, call.service.grammars)
        except ContextLengthExceeded as refused:
            refused.message = f"prompt is too long: {refused.num_tokens} tokens > {refused.most} maximum"
            raise


def chat_request(body: CountRequest) -> ChatRequest:
    """The equivalent chat request. Raises InvalidRequest."""
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
            for tool in shown_tools(body)
        ],
        "tool_choice": tool_choice_of(choice, body.tools),
        "parallel_tool_calls": not (choice is not None and choice.disable_parallel_tool_use),
        "thinking": ThinkingSwitch(type="disabled" if body.thinking.type == "disabled" else "enabled")
        if body.thinking
        else None,
        "include_reasoning": not (body.thinking and body.thinking.display == "omitted"),
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
            "stream_options": body.stream_options,
            "timeout": body.timeout,
            "not_before": body.not_before,
        }
    return ChatRequest.model_construct(**fields)


def shown_tools(body: CountRequest) -> list[MessagesTool]:
    """A deferred tool is shown once a tool_reference in the conversation, or `tool_choice`, names it."""
    tools = body.tools or []
    if not any(tool.defer_loading for tool in tools):
        return tools
    blocks = (block for turn in body.messages if isinstance(turn.content, list) for block in turn.content)
    wanted = {body.tool_choice.name if body.tool_choice else None, *referenced_tools(blocks)}
    return [tool for tool in tools if not tool.defer_loading or tool.name in wanted]


def tool_choice_of(choice: MessagesToolChoice | None, tools: Sequence[MessagesTool] | None) -> ToolChoice | None:
    """`tools`: without those of Anthropic's servers."""
    if choice is None or choice.type == "auto":
        return None
    if choice.type == "none":
        return "none"
    if tools is not None and not tools:
        raise InvalidRequest(
            "'tool_choice' demands a tool, but this server runs none of those sent.", param="tool_choice"
        )
    if choice.type == "any":
        return "required"
    if choice.name is None:
        raise InvalidRequest("'tool_choice.name' is required with type tool.", param="tool_choice.name")
    return NamedTool(function=NamedFunction(name=choice.name))


def format_of(wanted: MessagesFormat | None) -> ResponseFormat | None:
    if wanted is None:
        return None
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=wanted.schema_, strict=True))
