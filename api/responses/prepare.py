"""A responses request -> the equivalent chat request, prepared, with the conversation that it continues."""

import re
import time
from collections.abc import Sequence
from typing import Any

from api.chat.prepare import ChatInput, chat_input
from api.gate.auth import Caller
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import StoredAnswer, reopen, stored
from api.process.offload import offload
from api.reading.choice import ParseOptions
from api.request.sampling import DEFAULT_TEMPERATURE
from api.request.submission import Prepared, QueueOptions, new_id
from api.responses.chunks import RESPONSE, ResponsesMeta
from api.responses.items import messages_of
from api.schema.base import JsonSchema, ResponseFormat
from api.schema.chat import (
    AllowedTools,
    AllowedToolsChoice,
    ChatRequest,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    Tool,
    ToolChoice,
)
from api.schema.parse import known_only
from api.schema.responses import AllowedChoice, FunctionChoice, ResponsesRequest
from common.errors import InvalidRequest, NotFound, PreviousResponseNotFound

LOGPROBS = "message.output_text.logprobs"
MESSAGES = re.compile(r"(?<!these )messages(\[\d+\](\.\w+\[\d+\])?)?")  # as refusals name the field, or a part of it


def prepare(call: Call[ResponsesRequest]) -> Prepared[ResponsesMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    check_together(call.body)
    context = context_of(call)
    body = offload(chat_request, call.body, context)
    chat = input_of(body, call)
    meta = response_meta(call.body, call.raw, context, chat.options)
    return Prepared(meta, [chat.request(meta.id, call)], QueueOptions.of(body))


def count_tokens(call: Call[ResponsesRequest]) -> int:
    return len(input_of(offload(chat_request, call.body, context_of(call)), call).prompt.ids)


def input_of(body: ChatRequest, call: Call[ResponsesRequest]) -> ChatInput:
    """The chat input. A refusal that names the chat request's `messages` names `input`, which the caller sent."""
    try:
        return chat_input(body, call.encoder, call.service.grammars)
    except InvalidRequest as refused:
        if (refused.param or "").partition("[")[0] != "messages":
            raise
        raise type(refused)(MESSAGES.sub("input", refused.message), param="input") from None


def check_together(body: ResponsesRequest) -> None:
    if body.background and body.store is False:
        raise InvalidRequest("'background' needs the response to be stored.", param="background")


def context_of(call: Call[ResponsesRequest]) -> list[dict[str, Any]]:
    """All items up to the end of `previous_response_id`. Raises InvalidRequest."""
    response_id = call.body.previous_response_id
    if response_id is None:
        return []
    try:
        found = stored_response(call.service, call.caller, response_id)
    except NotFound as error:
        raise PreviousResponseNotFound(error.message, param="previous_response_id") from None
    [job] = found.jobs
    if job.state != "finished":
        raise InvalidRequest(
            f"'previous_response_id' is {job.state}; only a finished response can be continued.",
            param="previous_response_id",
        )
    output: list[dict[str, Any]] = reopen(call.service, call.http, found).body()["output"]
    return [*found.meta.context, *found.meta.input, *output]


def stored_response(service: Service, caller: Caller, response_id: str) -> StoredAnswer[ResponsesMeta]:
    """Raises NotFound also for a response that was sent with `store: false`."""
    found = stored(service, caller, RESPONSE, response_id)
    if not found.meta.store:
        raise NotFound("This response was not stored ('store': false).")
    return found


def chat_request(body: ResponsesRequest, context: Sequence[dict[str, Any]]) -> ChatRequest:
    """The equivalent chat request; `context` holds the items of the earlier responses. Raises InvalidRequest."""
    shared = {name: getattr(body, name) for name in body.model_fields_set & ChatRequest.model_fields.keys()}
    own = {"tools", "tool_choice", "top_logprobs"}
    return ChatRequest.model_construct(
        **{name: value for name, value in shared.items() if name not in own},
        messages=messages_of(body, context),
        max_completion_tokens=body.max_output_tokens,
        tools=[
            Tool(type="function", function=FunctionDefinition(**tool.model_dump(exclude={"type"})))
            for tool in body.tools or ()
        ],
        tool_choice=_tool_choice(body.tool_choice),
        response_format=_response_format(body),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        logprobs=LOGPROBS in (body.include or ()),
        top_logprobs=body.top_logprobs if LOGPROBS in (body.include or ()) else None,
    )


def response_meta(
    body: ResponsesRequest, raw: dict[str, Any], context: list[dict[str, Any]], options: ParseOptions
) -> ResponsesMeta:
    response_id = new_id("resp_")
    return ResponsesMeta(
        id=response_id,
        model=body.model,
        created=int(time.time()),
        store=body.store is not False,
        background=bool(body.background),
        echo=echo_of(body, raw),
        input=numbered_items(body, raw, response_id),
        context=context,
        reading=options,
    )


def echo_of(body: ResponsesRequest, raw: dict[str, Any]) -> dict[str, Any]:
    """The request's fields that every response object repeats, with the defaults that OpenAI publishes."""
    defaults: dict[str, Any] = {
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "temperature": DEFAULT_TEMPERATURE,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    sent = known_only(body, raw)
    echo = {name: sent.get(name, default) for name, default in defaults.items()}
    reasoning = {
        "effort": body.reasoning.effort if body.reasoning else None,
        "summary": body.reasoning.summary if body.reasoning else None,
    }
    return echo | {"reasoning": reasoning}


def numbered_items(body: ResponsesRequest, raw: dict[str, Any], response_id: str) -> list[dict[str, Any]]:
    """The request's own items, each with an id so that it can be listed."""
    if isinstance(body.input, str):
        items: list[dict[str, Any]] = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}
        ]
    else:
        items = [item for item in known_only(body.input, raw["input"]) if item.get("type") != "item_reference"]
    stem = response_id.removeprefix("resp_")
    return [
        {"id": f"item_{stem}{number:03d}"} | {"type": "message"} | {k: v for k, v in item.items() if v is not None}
        for number, item in enumerate(items)
    ]


def _tool_choice(choice: str | FunctionChoice | AllowedChoice | None) -> ToolChoice | None:
    if isinstance(choice, FunctionChoice):
        return NamedTool(function=NamedFunction(name=choice.name))
    if isinstance(choice, AllowedChoice):
        tools = [NamedTool(function=NamedFunction(name=tool.name)) for tool in choice.tools]
        return AllowedToolsChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=tools))
    return choice  # type: ignore[return-value]  # the gate let three words through


def _response_format(body: ResponsesRequest) -> ResponseFormat | None:
    wanted = body.text.format if body.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return ResponseFormat(type=wanted.type)
    described = JsonSchema(name=wanted.name, schema=wanted.schema_, strict=wanted.strict)
    return ResponseFormat(type="json_schema", json_schema=described)
