"""A chat request -> prompt ids, sampling, and how the answer is parsed. Responses and messages use it too."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from api.chat.chunks import ChatMeta
from api.jobs.call import Call
from api.process.offload import executor_for
from api.prompt.conversation import Conversation
from api.prompt.encoder import ChatPrompt, PromptEncoder
from api.prompt.images import images_of, placed_images
from api.reading.choice import ParseOptions
from api.reading.dialects.dialect import ToolDialect
from api.reading.parameters import ParameterKind, kinds_of, nested_kinds_of
from api.request.constraints import compiled, grammar_of, must_call, offered_tools
from api.request.custom_tools import check_rules, names_of_custom_tools
from api.request.sampling import DEFAULT_TEMPERATURE, TextLimits, sampling_params, stop_tokens
from api.request.submission import Prepared, QueueOptions, new_id
from api.request.template_kwargs import template_kwargs
from api.schema.base import ALL_TOKENS
from api.schema.chat import ChatRequest, Message, Tool
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from common.wire import GenerationRequest, SamplingParams

ECHOED: Mapping[str, Any] = MappingProxyType(  # with the defaults that OpenAI publishes
    {
        "temperature": DEFAULT_TEMPERATURE,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": None,
        "tools": None,
        "tool_choice": None,
        "response_format": None,
    }
)


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation's prompt, sampling and parse options, whichever endpoint it came through."""

    prompt: ChatPrompt
    sampling: SamplingParams
    options: ParseOptions
    images: tuple[str, ...] = ()

    def request(self, job_id: str, call: Call[Any]) -> GenerationRequest:
        return GenerationRequest(
            id=job_id,
            model=call.body.model,
            prompt_ids=self.prompt.ids,
            sampling=self.sampling,
            cache_salt=call.caller.owner,
            images=self.images,
        )


def prepare(call: Call[ChatRequest]) -> Prepared[ChatMeta]:
    """Raises InvalidRequest or ContextLengthExceeded for what this model cannot honour."""
    body = call.body
    chat = chat_input(body, call.encoder, call.service.grammars)
    meta = ChatMeta(
        id=new_id("chatcmpl-"),
        model=body.model,
        created=int(time.time()),
        n=body.n or 1,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=bool(body.logprobs),
        has_old_calls=body.has_old_calls,
        service_tier=call.shown_tier,
        **(stored_fields(call) if body.store else {}),
        reading=chat.options,
    )
    return Prepared(meta, [chat.request(meta.id, call)], QueueOptions.of(body), archive=meta.is_stored)


def stored_fields(call: Call[ChatRequest]) -> dict[str, Any]:
    """What is kept of a request with `store: true`: its messages as sent, and what a stored completion repeats."""
    body, raw = call.body, call.raw
    echo = {name: raw.get(name, default) for name, default in ECHOED.items()}
    return {
        "messages": raw["messages"],
        "metadata": {name: value for name, value in (body.metadata or {}).items() if value is not None},
        "echo": echo | {"input_user": raw.get("user")},
    }


def chat_input(body: ChatRequest, encoder: PromptEncoder, grammars: GrammarCheck) -> ChatInput:
    """Raises InvalidRequest or ContextLengthExceeded."""
    check_together(body)
    tools = offered_tools(body)
    execute = executor_for(body)
    messages = execute(placed_images, body.messages, encoder.card)
    prompt = encoder.encode_chat(execute(conversation_of, body, messages, tools))
    dialect = encoder.tool_dialect if tools else None
    ends = () if body.ignore_eos else encoder.end_token_ids
    options = ParseOptions(
        tool_dialect=dialect.name if dialect else None,
        reasoning_form=encoder.reasoning_form.name,
        is_thinking_opened=prompt.thinking == "opened",
        shows_reasoning=body.include_reasoning is not False,
        stop_token_ids=(*stop_tokens(body, encoder.card), *ends),
        must_call=bool(tools) and must_call(body),
        parameter_kinds=parameter_kinds(tools, dialect),
        custom_tools=names_of_custom_tools(body.tools or ()) if tools else (),
    )
    grammar = execute(grammar_of, body, tools, encoder, prompt.thinking)
    check_rules(body.tools or (), grammars)
    limits = TextLimits(
        max_tokens=body.max_completion_tokens or body.max_tokens or (ALL_TOKENS if tools else None),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=None if grammar is None else compiled(grammar, body, grammars),
        skip_special_tokens=_skips_special_tokens(body, encoder, dialect),
    )
    sampling = sampling_params(body, limits, encoder.card, len(prompt.ids))
    sampling = replace(
        sampling,
        stop=_stops_of_text(body, sampling, encoder, options),
        stop_token_ids=(*sampling.stop_token_ids, *ends),
    )
    return ChatInput(prompt, sampling, options, images_of(messages, encoder.card))


def check_together(body: ChatRequest) -> None:
    """Raises InvalidRequest for fields that exclude or need each other."""
    if body.modalities and body.modalities != ["text"]:
        raise InvalidRequest("'modalities': this server answers in text only.", param="modalities")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    if body.continue_final_message and body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "'continue_final_message' needs an assistant's message at the end.", param="continue_final_message"
        )
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' and 'add_generation_prompt' exclude each other.", param="add_generation_prompt"
        )
    limit = body.max_completion_tokens or body.max_tokens
    if limit not in (None, ALL_TOKENS) and (body.min_tokens or 0) > limit:
        raise InvalidRequest("'min_tokens' is more than the most tokens asked for.", param="min_tokens")


def conversation_of(body: ChatRequest, messages: Sequence[Message], tools: Sequence[Tool]) -> Conversation:
    shape = body.response_format
    return Conversation(
        messages=messages,
        tools=tools,
        template_kwargs=template_kwargs(body),
        response_format=shape.model_dump(by_alias=True, exclude_none=True) if shape is not None else None,
        continue_final=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )


def parameter_kinds(tools: Sequence[Tool], dialect: ToolDialect | None) -> dict[str, dict[str, ParameterKind]]:
    """What the schemas say of each function's parameters, as it is stored with the job."""
    if dialect is None or not dialect.reads_kinds:
        return {}
    read = nested_kinds_of if dialect.reads_nested_kinds else kinds_of
    kinds = {tool.function.name: read(tool.function.parameters) for tool in tools}
    return {name: found for name, found in kinds.items() if found}


def _stops_of_text(
    body: ChatRequest, sampling: SamplingParams, encoder: PromptEncoder, options: ParseOptions
) -> tuple[str, ...]:
    """Stop strings apply to text: not to a call's arguments, nor to marks that are kept only to be parsed."""
    if options.must_call:
        return ()
    if body.skip_special_tokens is False:
        return sampling.stop
    return tuple(stop for stop in sampling.stop if not encoder.leaves_out(stop))


def _skips_special_tokens(body: ChatRequest, encoder: PromptEncoder, dialect: ToolDialect | None) -> bool:
    """The caller's choice; else False if a mark that the answer is parsed by is a special token of this model."""
    if body.skip_special_tokens is not None:
        return body.skip_special_tokens
    marks = (*dialect.openings, *dialect.further_marks) if dialect else ()
    return not any(encoder.leaves_out(mark) for mark in (*encoder.reasoning_form.all_marks, *marks))
