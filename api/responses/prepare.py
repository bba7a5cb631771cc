"""A responses request -> the equivalent chat request, prepared, with the conversation that it continues."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from api.chat.prepare import ChatInput, chat_input
from api.jobs.call import Call
from api.process.offload import offload
from api.request.field_names import named
from api.request.sampling import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from api.request.submission import Prepared, QueueOptions
from api.responses.chunks import ResponsesMeta
from api.responses.history import History, ResponseTurn, history_of, parsed_items
from api.responses.items import blaming, messages_of
from api.responses.tools import OfferedTools, offered_tools
from api.responses.truncation import fitted
from api.schema.base import ALL_TOKENS, JsonSchema, ResponseFormat
from api.schema.chat import ChatRequest
from api.schema.parse import known_only
from api.schema.response_items import InputItem
from api.schema.response_tools import ProviderTool
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest
from common.wire import Tier

LOGPROBS = "message.output_text.logprobs"
FIELDS: Mapping[str, str] = MappingProxyType(  # a chat request's, and what this endpoint has for them
    {
        "messages": "input",
        "tools": "tools",
        "max_completion_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
    }
)


@dataclass(frozen=True, slots=True)
class Ready:
    """A request's chat input, and what its response says of it."""

    chat: ChatInput
    calls: dict[str, dict[str, str]]  # as ResponsesMeta has them
    num_dropped: int


def prepare(call: Call[ResponsesRequest], turn: ResponseTurn) -> Prepared[ResponsesMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    history = history_of(call, turn)
    ready = ready_of(call, history)
    meta = response_meta(call, turn, history, ready)
    options = QueueOptions.of(call.body)
    archive = meta.store or bool(turn.conversation_id)
    return Prepared(meta, [ready.chat.request(meta.id, call)], options, archive=archive)


def count_tokens(call: Call[ResponsesRequest], turn: ResponseTurn) -> int:
    return len(ready_of(call, history_of(call, turn)).chat.prompt.ids)


def ready_of(call: Call[ResponsesRequest], history: History) -> Ready:
    items = offload(parsed_items, history)
    offered = offered_tools(call.body.tools or (), items)
    known = [str(item.get("id")) for item in history.context]

    def chat_of(some: Sequence[InputItem]) -> ChatInput:
        body = offload(chat_request, call.body, some, offered)
        with named(FIELDS), blaming(known, call.body.instructions, some):
            return chat_input(body, call.encoder, call.service.grammars)

    if call.body.truncation != "auto":
        return Ready(chat_of(items), offered.calls, 0)
    context = call.encoder.card.max_model_len
    room = min(call.body.max_output_tokens or DEFAULT_MAX_TOKENS, context // 4)
    chat, num_dropped = fitted(items, chat_of, lambda chat: len(chat.prompt.ids) + room <= context)
    return Ready(chat, offered.calls, num_dropped)


def check_together(body: ResponsesRequest) -> None:
    if body.conversation is not None and body.previous_response_id is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only providing "
            "one of them.",
            param="previous_response_id",
        )
    if body.input in (None, []) and body.previous_response_id is None and body.conversation is None:
        raise InvalidRequest("'input' is required without 'previous_response_id' or 'conversation'.", param="input")
    if body.background and body.store is False:
        raise InvalidRequest("'background' needs the response to be stored.", param="background")


def chat_request(body: ResponsesRequest, items: Sequence[InputItem], offered: OfferedTools) -> ChatRequest:
    """The equivalent chat request for these items and tools. Raises InvalidRequest."""
    shared = {name: getattr(body, name) for name in body.model_fields_set & ChatRequest.model_fields.keys()}
    own = {"tools", "tool_choice", "top_logprobs"}
    return ChatRequest.model_construct(
        **{name: value for name, value in shared.items() if name not in own},
        messages=messages_of(body.instructions, items),
        max_completion_tokens=body.max_output_tokens or ALL_TOKENS,  # as at OpenAI: agents send no limit
        tools=offered.tools,
        tool_choice=offered.choice(body.tool_choice),
        response_format=_response_format(body),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        logprobs=LOGPROBS in (body.include or ()),
        top_logprobs=body.top_logprobs if LOGPROBS in (body.include or ()) else None,
    )


def response_meta(call: Call[ResponsesRequest], turn: ResponseTurn, history: History, ready: Ready) -> ResponsesMeta:
    body = call.body
    return ResponsesMeta(
        id=turn.response_id,
        model=body.model,
        created=int(time.time()),
        store=body.store is not False,
        background=bool(body.background),
        echo=echo_of(body, call.raw, call.tier),
        input=history.own,
        context=history.context,
        calls=ready.calls,
        num_dropped=ready.num_dropped,
        conversation=turn.conversation_id,
        reading=ready.chat.options,
    )


def echo_of(body: ResponsesRequest, raw: dict[str, Any], tier: Tier) -> dict[str, Any]:
    """The request's fields that every response object repeats, with the defaults that OpenAI publishes."""
    defaults: dict[str, Any] = {
        "frequency_penalty": 0.0,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "temperature": DEFAULT_TEMPERATURE,
        "tool_choice": "auto",
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    sent = known_only(body, raw)
    tools = zip(body.tools or (), sent.get("tools", ()), strict=True)
    return {name: sent.get(name, default) for name, default in defaults.items()} | {
        "reasoning": {"effort": None, "summary": None} | sent.get("reasoning", {}),
        "service_tier": tier,
        "text": _echoed_text(sent.get("text", {})),
        "tools": [_echoed_tool(tool) for kind, tool in tools if not isinstance(kind, ProviderTool)],
    }


def _echoed_text(sent: dict[str, Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = sent.get("format", {"type": "text"})
    if wanted["type"] == "json_schema":
        wanted = {"description": None, "strict": False} | wanted
    return sent | {"format": wanted}


def _echoed_tool(sent: dict[str, Any]) -> dict[str, Any]:
    """A tool that the model is shown, in OpenAI's form, which has a function's fields also when they are null."""
    return {"description": None, "parameters": None, "strict": None} | sent if sent["type"] == "function" else sent


def _response_format(body: ResponsesRequest) -> ResponseFormat | None:
    wanted = body.text.format if body.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return ResponseFormat(type=wanted.type)
    described = JsonSchema(name=wanted.name, schema=wanted.schema_, strict=wanted.strict)
    return ResponseFormat(type="json_schema", json_schema=described)
