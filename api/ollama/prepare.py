"""A chat or generate request -> the equivalent chat or completion request, prepared."""

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from api.chat.prepare import ChatInput, chat_input
from api.completions.prepare import prompt_ids_of, text_limits
from api.jobs.call import Call
from api.ollama.chunks import OllamaMeta
from api.ollama.formats import closed
from api.ollama.turns import messages_of, prompt_messages
from api.process.offload import offload
from api.prompt.encoder import ChatPrompt
from api.reading.choice import ParseOptions
from api.request.field_names import named
from api.request.sampling import sampling_params
from api.request.submission import Prepared, QueueOptions, new_id
from api.schema.base import ALL_TOKENS, JsonSchema, ResponseFormat
from api.schema.chat import ChatRequest, Message, ThinkingSwitch
from api.schema.completions import CompletionRequest
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaGenerating,
    OllamaOptions,
)
from common.errors import InvalidRequest

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "messages": "messages",
        "stop": "options.stop",
        "reasoning_effort": "think",
        "response_format": "format",
        "response_format.json_schema.schema": "format",
    }
)
PROMPT_FIELDS: Mapping[str, str] = MappingProxyType({**FIELDS, "messages": "prompt"})


def prepare_chat(call: Call[OllamaChatRequest]) -> Prepared[OllamaMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    with named(FIELDS):
        return from_chat(call, chat_input(offload(chat_request, call.body), call.encoder, call.service.grammars))


def prepare_generate(call: Call[OllamaGenerateRequest]) -> Prepared[OllamaMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    body = call.body
    with named(PROMPT_FIELDS):
        if body.raw or body.suffix:
            return from_chat(call, raw_input(call), is_raw=True)
        asked = ChatRequest.model_construct(**options_of(body), messages=offload(prompt_messages, body))
        return from_chat(call, chat_input(asked, call.encoder, call.service.grammars))


def from_chat(call: Call[Any], chat: ChatInput, *, is_raw: bool = False) -> Prepared[OllamaMeta]:
    body: OllamaGenerating = call.body
    now = time.time_ns()
    meta = OllamaMeta(
        id=new_id("ollama-"),
        model=body.model,
        created=now // 10**9,
        created_ns=now,
        logprobs=bool(body.logprobs),
        is_raw=is_raw,
        reading=chat.options,
    )
    return Prepared(
        meta, [chat.request(meta.id, call)], QueueOptions(stream=body.is_streamed, keep_alive_s=body.keep_alive)
    )


def chat_request(body: OllamaChatRequest) -> ChatRequest:
    messages = messages_of(body.messages or ())
    return ChatRequest.model_construct(
        **options_of(body),
        messages=messages,
        tools=[*body.tools] if body.tools else None,
        tool_choice=body.tool_choice,
        continue_final_message=_is_begun(messages[-1]),
    )


def _is_begun(last: Message) -> bool:
    return last.role == "assistant" and not last.tool_calls


def raw_input(call: Call[OllamaGenerateRequest]) -> ChatInput:
    """The prompt without a template, or with the text that follows the gap."""
    body, encoder = call.body, call.encoder
    if body.images:
        raise InvalidRequest("'images' need the model's template; leave 'raw' and 'suffix' out.", param="images")
    asked = CompletionRequest.model_construct(
        **options_of(body), prompt=[body.prompt or ""], suffix=body.suffix or None
    )
    limits = replace(text_limits(asked, call.service.grammars), logprobs=_num_logprobs(body))
    [ids] = prompt_ids_of(asked, encoder)
    sampling = sampling_params(asked, limits, encoder.card, len(ids))
    return ChatInput(ChatPrompt(ids, "none"), sampling, ParseOptions(stop_token_ids=encoder.card.eos_token_ids))


def options_of(body: OllamaGenerating) -> dict[str, Any]:
    """The fields of a chat request that do not depend on what is asked."""
    options = body.options or OllamaOptions()
    wanted = options.num_predict
    return {
        "model": body.model,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "seed": None if options.seed == -1 else options.seed,
        "max_tokens": wanted if wanted is not None and wanted > 0 else ALL_TOKENS,
        "stop": options.stop,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "response_format": format_of(body),
        **thinking_of(body),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs if body.logprobs else None,
    }


def _num_logprobs(body: OllamaGenerating) -> int | None:
    return body.top_logprobs or 0 if body.logprobs else None


def format_of(body: OllamaGenerating) -> ResponseFormat | None:
    if body.format is None:
        return None
    if body.format == "json":
        return ResponseFormat(type="json_object")
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=closed(body.format)))


def thinking_of(body: OllamaGenerating) -> dict[str, Any]:
    if body.think is None:
        return {}
    if isinstance(body.think, str):
        return {"reasoning_effort": body.think}
    return {
        "thinking": ThinkingSwitch(type="enabled" if body.think else "disabled"),
        "include_reasoning": body.think,
    }
