"""A parsed chat request -> what is put into the line: prompt ids, sampling, and the form of the answer."""

import hashlib
import secrets
import time
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import orjson

from api.auth import Caller
from api.chunks import ChatForm
from api.prompt import PromptEncoder
from api.schema import MAX_TIMEOUT_S, ChatRequest, Sampling
from common.errors import InvalidRequest
from common.store import Submission
from common.wire import GenerationRequest, ModelCard, SamplingParams

DEFAULT_TEMPERATURE = 0.7
DEFAULT_MAX_TOKENS = 2048
MAX_IDEMPOTENCY_KEY = 256


def prepare(body: ChatRequest, encoder: PromptEncoder, caller: Caller) -> tuple[GenerationRequest, ChatForm]:
    """Raises InvalidRequest or ContextLengthExceeded for what this model cannot honour."""
    if body.modalities and body.modalities != ["text"]:
        raise InvalidRequest("'modalities': this server answers in text only.", param="modalities")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    prompt_ids = encoder.encode_chat(
        body.messages,
        tools=body.tools if body.tool_choice != "none" else None,
        template_kwargs=body.chat_template_kwargs,
        continue_final=bool(body.continue_final_message),
    )
    max_tokens = body.max_completion_tokens or body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    form = ChatForm(
        id=f"chatcmpl-{uuid4().hex}",
        model=body.model,
        created=int(time.time()),
        n=body.n or 1,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=bool(body.logprobs),
    )
    request = GenerationRequest(
        id=form.id,
        model=body.model,
        prompt_ids=prompt_ids,
        sampling=sampling_params(body, encoder.card, len(prompt_ids), max_tokens, logprobs),
        cache_salt=caller.owner,
    )
    return request, form


def sampling_params(
    body: Sampling, card: ModelCard, num_prompt: int, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """The request's sampling with every default filled in. max_tokens is cut to what the context still holds."""
    room = card.max_model_len - num_prompt
    for token, _ in (body.logit_bias or {}).items():
        if int(token) >= card.vocab_size:
            raise InvalidRequest(f"'logit_bias': {token} is not a token of this model.", param="logit_bias")
    return SamplingParams(
        max_tokens=min(max_tokens or DEFAULT_MAX_TOKENS, room),
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
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
        n=body.n or 1,
    )


def submission(
    request: GenerationRequest, form: Any, body: Sampling, encoder: PromptEncoder, caller: Caller,
    headers: Any, raw: dict[str, Any],
) -> Submission:  # fmt: skip
    """What goes into the line; `form` is a dataclass. Raises InvalidRequest for an Idempotency-Key that is too long."""
    key = headers.get("Idempotency-Key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"The Idempotency-Key may have {MAX_IDEMPOTENCY_KEY} characters at most.")
    is_background = bool(body.background)
    return Submission(
        request=request,
        queue=encoder.card.queue,
        owner=caller.owner,
        revision=encoder.card.revision,
        form=asdict(form),
        background=is_background,
        deadline_s=deadline_s(body.timeout, "" if is_background else headers.get("x-stainless-read-timeout", "")),
        idempotency_key=key,
        body_digest=hashlib.sha256(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)).hexdigest() if key else "",
    )


def deadline_s(timeout: float | None, header: str) -> float:
    """The body's `timeout`, else what the SDK says it will wait; 0 for none."""
    if timeout is not None:
        return timeout
    try:
        seconds = float(header)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds <= MAX_TIMEOUT_S else 0.0
