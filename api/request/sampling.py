"""A request's sampling fields -> SamplingParams with every default filled in."""

import secrets
from dataclasses import dataclass

from api.schema.base import ALL_TOKENS, Sampling
from common.wire import GREEDY_BELOW, OPEN_TOKENS, ModelCard, SamplingParams

DEFAULT_TEMPERATURE = 0.7
LEAST_TOP_P = 1e-6  # top_p of 0 takes the likeliest token
DEFAULT_MAX_TOKENS = OPEN_TOKENS


@dataclass(frozen=True, slots=True)
class TextLimits:
    """The part of sampling that each endpoint spells in its own way."""

    max_tokens: int | None  # ALL_TOKENS: what the context holds
    logprobs: int | None = None  # alternatives per token; None: no logprobs
    grammar: str | None = None
    skip_special_tokens: bool = True


def sampling_params(body: Sampling, limits: TextLimits, card: ModelCard, num_prompt: int) -> SamplingParams:
    """max_tokens is cut to what the context still holds. Raises InvalidRequest for a token id out of range."""
    room = card.max_model_len - num_prompt
    for name, tokens in (("logit_bias", body.logit_bias), ("stop_token_ids", body.stop_token_ids)):
        if unknown := next((token for token in tokens or () if int(token) >= card.vocab_size), None):
            raise card.unknown_token(name, int(unknown))
    return SamplingParams(
        max_tokens=room if limits.max_tokens == ALL_TOKENS else min(limits.max_tokens or DEFAULT_MAX_TOKENS, room),
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        temperature=temperature_of(body.temperature),
        top_p=1.0 if body.top_p is None else max(body.top_p, LEAST_TOP_P),
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
        logprobs=limits.logprobs,
        grammar=limits.grammar,
        n=body.n or 1,
        skip_special_tokens=limits.skip_special_tokens,
    )


def temperature_of(asked: float | None) -> float:
    if asked is None:
        return DEFAULT_TEMPERATURE
    return asked if asked >= GREEDY_BELOW else 0.0


def stop_tokens(body: Sampling, card: ModelCard) -> tuple[int, ...]:
    """Tokens that end an answer and are not part of its text."""
    return (*(() if body.ignore_eos else card.eos_token_ids), *(body.stop_token_ids or ()))
