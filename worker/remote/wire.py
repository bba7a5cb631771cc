"""What a vLLM server is asked, and what its answers mean: token ids both ways; its text is never looked at."""

import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.wire import TokenLogprob
from worker.state.sequence import Sequence

BAD_ANSWER = "backend_error"  # the code of a job that the server answered wrongly
TOKEN_PREFIX = "token_id:"  # how return_tokens_as_token_ids writes a token


@dataclass(frozen=True, slots=True)
class Question:
    """The next tokens of one sequence: how many at most, and what is forbidden or favoured."""

    max_tokens: int
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: Seq[int] | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one chunk brought."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The server has given all that was asked for."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer broke off; `was_asked`: after the server had the question. It can be asked again, from there on."""

    reason: str
    was_asked: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """Asking again would not help."""

    code: str
    message: str


News = Tokens | Ended | Lost | Refused


class BadAnswer(Exception):
    """The server's words make no sense; the message says which."""


def completion_body(model: str, sequence: Sequence, question: Question) -> dict[str, Any]:
    """The body of POST /v1/completions. Ends are ours: its own are ignored, ours are named to it."""
    sampling = sequence.sampling
    num_forbidden_ends = sampling.min_tokens - sequence.num_completion_tokens if sequence.ends else 0
    body: dict[str, Any] = {
        "model": model,
        "prompt": sequence.token_ids,
        "stream": True,
        "max_tokens": question.max_tokens,
        "min_tokens": min(question.max_tokens, max(0, num_forbidden_ends)),
        "ignore_eos": True,
        "stop_token_ids": sorted(sequence.ends),
        "skip_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    for name in ("temperature", "top_p", "top_k", "min_p"):
        body[name] = getattr(sampling, name)
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        body[name] = getattr(sampling, name)
    if sampling.temperature > 0:
        body["seed"] = seed_of(sequence)
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    if question.bias:
        body["logit_bias"] = {str(token_id): value for token_id, value in question.bias.items()}
    if question.allowed is not None:
        body["allowed_token_ids"] = list(question.allowed)
    if sequence.cache_salt:
        body["cache_salt"] = sequence.cache_salt
    return body


def seed_of(sequence: Sequence) -> int:
    """The server draws from its beginning with each question: a choice, and a continuation, need seeds of their own."""
    text = f"{sequence.sampling.seed}:{sequence.index}:{sequence.num_completion_tokens}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def read_chunk(data: bytes, vocab_size: int, num_top: int | None) -> News | None:
    """One `data:` of the stream; None for one without tokens. Raises BadAnswer."""
    try:
        chunk = orjson.loads(data)
    except ValueError:
        raise BadAnswer(f"it sent what is not JSON: {data[:80]!r}") from None
    if not isinstance(chunk, dict):
        raise BadAnswer(f"it sent what is not an object: {data[:80]!r}")
    if "error" in chunk:
        return read_error(500, chunk)
    choices = chunk.get("choices")
    if not choices:
        return None
    if choices[0].get("finish_reason") in ("abort", "error"):
        return Lost(f"it ended the request with {choices[0]['finish_reason']!r}")
    token_ids = choices[0].get("token_ids")
    if not isinstance(token_ids, list):
        raise BadAnswer("its chunks have no token_ids; it must be a server that knows return_token_ids")
    if not all(isinstance(token_id, int) and 0 <= token_id < vocab_size for token_id in token_ids):
        raise BadAnswer(f"it sent a token that OMNI_MODEL does not have: {token_ids[:8]}")
    logprobs = () if num_top is None else read_logprobs(choices[0].get("logprobs"), token_ids, num_top)
    return Tokens(tuple(token_ids), logprobs)


def read_error(status: int, body: Any) -> Lost | Refused:
    """Its error object: what the request did is refused, what went wrong in the server is worth another try."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": str(error or body)}
    code = error.get("code")
    status = code if isinstance(code, int) else status
    message = str(error.get("message", ""))[:500]
    if status >= 500 or status == 429:
        return Lost(f"{status}: {message}", was_asked=status == 500)
    if status in (401, 403):
        return Refused(BAD_ANSWER, "The engine behind this service does not take its key.")
    return Refused("invalid_request", f"The engine behind this service refuses the request: {message}")


def read_logprobs(logprobs: Any, token_ids: list[int], num_top: int) -> tuple[TokenLogprob, ...]:
    """Raises BadAnswer unless there is one for each token, with tokens written as ids."""
    try:
        found = tuple(
            TokenLogprob(token_id, float(logprob), likeliest(top or {}, num_top))
            for token_id, logprob, top in zip(
                token_ids, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadAnswer("its logprobs do not belong to its tokens") from None
    return found


def likeliest(top: Mapping[str, float], num_top: int) -> tuple[tuple[int, float], ...]:
    pairs = [(int(name.removeprefix(TOKEN_PREFIX)), float(value)) for name, value in top.items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:num_top])
