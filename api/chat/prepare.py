"""A parsed chat request -> what is put into the line: prompt ids, sampling, and how the answer is to be read."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

from api.chat.chunks import ChatForm
from api.gate.auth import Caller
from api.process.offload import executor_for, offload
from api.prompt.conversation import Conversation
from api.prompt.encoder import ChatPrompt, PromptEncoder
from api.prompt.images import images_of
from api.reading.choice import ParseOptions
from api.request.constraints import grammar_of, must_call, offered_tools
from api.schema.base import MAX_TIMEOUT_S, Sampling
from api.schema.chat import ChatRequest, Tool
from common.errors import InvalidRequest
from common.grammar.answer import THINK
from common.grammar.check import GrammarCheck
from common.json_bytes import json_bytes
from common.redis.submission import Submission
from common.wire import GenerationRequest, ModelCard, SamplingParams

DEFAULT_TEMPERATURE = 0.7
GREEDY_BELOW = 1e-5  # nothing but the likeliest token is ever drawn there, and float32 divides badly by less
DEFAULT_MAX_TOKENS = 2048
MAX_IDEMPOTENCY_KEY = 256


class Waited(Protocol):
    """What every kind of request says of its place in line and of how long it may take."""

    @property
    def background(self) -> bool | None: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def timeout(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be put into the line, whatever form its answer will take."""

    prompt: ChatPrompt
    sampling: SamplingParams
    reading: ParseOptions
    images: tuple[str, ...] = ()

    def request(self, job_id: str, model: str, caller: Caller) -> GenerationRequest:
        return GenerationRequest(
            job_id, model, self.prompt.ids, self.sampling, cache_salt=caller.owner, images=self.images
        )


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


def prepare(body: ChatRequest, encoder: PromptEncoder, grammars: GrammarCheck) -> Prepared:
    """Raises InvalidRequest or ContextLengthExceeded for what this model cannot honour."""
    check_together(body)
    tools = offered_tools(body)
    do = executor_for(body)
    images = do(images_of, body.messages, encoder.card)
    prompt = encoder.encode_chat(do(conversation_of, body, tools))
    reading = ParseOptions(
        tool_dialect=encoder.tool_dialect.name if tools and encoder.tool_dialect else None,
        is_thinking_opened=prompt.thinking == "opened",
        shows_reasoning=body.include_reasoning is not False,
        stop_token_ids=ends_of(body, encoder.card),
        must_call=bool(tools) and must_call(body),
    )
    grammar = do(grammar_of, body, tools, encoder, prompt.thinking)
    sampling = sampling_params(
        body,
        encoder.card,
        len(prompt.ids),
        body.max_completion_tokens or body.max_tokens,
        (body.top_logprobs or 0) if body.logprobs else None,
        grammar=None if grammar is None else grammars.compiled(grammar),
        skip_special_tokens=skips_special_tokens(body, encoder, reading),
    )
    if reading.must_call:  # a stop string is one of the text that the model writes, not of a call's arguments
        sampling = replace(sampling, stop=())
    return Prepared(prompt, sampling, reading, images)


def check_together(body: ChatRequest) -> None:
    """Raises InvalidRequest for fields that are good by themselves only."""
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
    if limit is not None and (body.min_tokens or 0) > limit:
        raise InvalidRequest("'min_tokens' is more than the most tokens asked for.", param="min_tokens")


def conversation_of(body: ChatRequest, tools: list[Tool]) -> Conversation:
    shape = body.response_format
    return Conversation(
        messages=body.messages,
        tools=tools,
        template_kwargs=thinking_kwargs(body) | (body.chat_template_kwargs or {}),
        response_format=shape.model_dump(by_alias=True, exclude_none=True) if shape is not None else None,
        continue_final=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )


def thinking_kwargs(body: ChatRequest) -> dict[str, Any]:
    """OpenAI's and DeepSeek's switches in the words of templates: each model's template knows one of these."""
    kwargs: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        is_on = body.reasoning_effort != "none"
        kwargs = {"reasoning_effort": body.reasoning_effort, "enable_thinking": is_on, "thinking": is_on}
    if body.thinking is not None:
        kwargs |= dict.fromkeys(("enable_thinking", "thinking"), body.thinking.type == "enabled")
    return kwargs


def ends_of(body: Sampling, card: ModelCard) -> tuple[int, ...]:
    return (*(() if body.ignore_eos else card.eos_token_ids), *(body.stop_token_ids or ()))


def skips_special_tokens(body: ChatRequest, encoder: PromptEncoder, reading: ParseOptions) -> bool:
    """False if asked for, or if the marks that the answer is read by are special tokens of this model."""
    if body.skip_special_tokens is not None:
        return body.skip_special_tokens
    marks = [THINK, encoder.tool_dialect.opening] if reading.tool_dialect and encoder.tool_dialect else [THINK]
    return not any(encoder.leaves_out(mark) for mark in marks)


def temperature_of(asked: float | None) -> float:
    if asked is None:
        return DEFAULT_TEMPERATURE
    return asked if asked >= GREEDY_BELOW else 0.0


def sampling_params(
    body: Sampling,
    card: ModelCard,
    num_prompt: int,
    max_tokens: int | None,
    logprobs: int | None,
    *,
    grammar: str | None = None,
    skip_special_tokens: bool = True,
) -> SamplingParams:
    """The request's sampling with every default filled in. max_tokens is cut to what the context still holds."""
    room = card.max_model_len - num_prompt
    for name, tokens in (("logit_bias", body.logit_bias), ("stop_token_ids", body.stop_token_ids)):
        if unknown := next((token for token in tokens or () if int(token) >= card.vocab_size), None):
            raise InvalidRequest(f"'{name}': {unknown} is not a token of this model.", param=name)
    return SamplingParams(
        max_tokens=min(max_tokens or DEFAULT_MAX_TOKENS, room),
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        temperature=temperature_of(body.temperature),
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        min_tokens=min(body.min_tokens or 0, room),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        grammar=grammar,
        n=body.n or 1,
        skip_special_tokens=skip_special_tokens,
    )


def chat_form(body: ChatRequest, prepared: Prepared) -> ChatForm:
    return ChatForm(
        id=new_id("chatcmpl-"),
        model=body.model,
        created=int(time.time()),
        n=body.n or 1,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=bool(body.logprobs),
        reading=prepared.reading,
    )


def submission(
    request: GenerationRequest, form: Any, body: Waited, encoder: PromptEncoder, caller: Caller,
    headers: Any, raw: Mapping[str, Any], kept_s: int | None = None,
) -> Submission:  # fmt: skip
    """Raises InvalidRequest for an Idempotency-Key that is too long."""
    key = headers.get("Idempotency-Key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"The Idempotency-Key may have {MAX_IDEMPOTENCY_KEY} characters at most.")
    is_background = bool(body.background)
    return Submission(
        request=request,
        queue=encoder.card.queue,
        owner=caller.owner,
        revision=encoder.card.revision,
        form=offload(asdict, form),
        background=is_background,
        deadline_s=deadline_s(body.timeout, "" if is_background else headers.get("x-stainless-read-timeout", "")),
        idempotency_key=key,
        body_digest=offload(digest_of, raw, form.kind) if key else "",
        priority=body.priority or 0,
        kept_s=kept_s,
    )


def digest_of(raw: Mapping[str, Any], kind: str) -> str:
    """The same for the same body to the same endpoint."""
    return hashlib.sha256(kind.encode() + json_bytes(raw, sort_keys=True)).hexdigest()


def deadline_s(timeout: float | None, header: str) -> float:
    """The body's `timeout`, else what the SDK says it will wait; 0 for none."""
    if timeout is not None:
        return timeout
    try:
        seconds = float(header)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds <= MAX_TIMEOUT_S else 0.0
