"""vLLM's wire: the body of a completion request, and the events in an answer. Token ids both ways; text is ignored."""

import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.errors import BackendError
from common.wire import TokenLogprob
from worker.state.sequence import Sequence

TOKEN_PREFIX = "token_id:"  # how return_tokens_as_token_ids writes a token


@dataclass(frozen=True, slots=True)
class Question:
    """The next tokens of one sequence: the most to generate, biases, and the allowed ones."""

    max_tokens: int
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: Seq[int] | None = None


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """The tokens of one chunk."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer broke off, and can be requested again. `was_asked`: the server had received the question."""

    reason: str
    was_asked: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """The server refuses the request; another attempt would not help."""

    code: str
    message: str


StreamEvent = TokenChunk | Ended | Lost | Refused


class BadAnswer(Exception):
    """The server's answer cannot be read; the message says why."""


def completion_body(model: str, sequence: Sequence, question: Question) -> dict[str, Any]:
    """The body of POST /v1/completions. The server ignores its own end tokens and stops at the sequence's."""
    sampling = sequence.sampling
    num_forbidden_ends = sampling.min_tokens - sequence.num_completion_tokens if sequence.stop_token_ids else 0
    body: dict[str, Any] = {
        "model": model,
        "prompt": sequence.token_ids,
        "stream": True,
        "max_tokens": question.max_tokens,
        "min_tokens": min(question.max_tokens, max(0, num_forbidden_ends)),
        "ignore_eos": True,
        "stop_token_ids": sorted(sequence.stop_token_ids),
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
    """The seed of one question. The server's generator starts over each time, so choices and positions differ in it."""
    text = f"{sequence.sampling.seed}:{sequence.index}:{sequence.num_completion_tokens}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def read_chunk(data: bytes, vocab_size: int, num_top: int | None) -> StreamEvent | None:
    """The event in one `data:` line of the stream; None without tokens. Raises BadAnswer."""
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
    if not (isinstance(choices, list) and isinstance(choices[0], dict)):
        raise BadAnswer(f"its choices are not objects: {data[:80]!r}")
    if choices[0].get("finish_reason") in ("abort", "error"):
        return Lost(f"it ended the request with {choices[0]['finish_reason']!r}")
    token_ids = choices[0].get("token_ids")
    if not isinstance(token_ids, list):
        raise BadAnswer("its chunks have no token_ids; it must be a server that knows return_token_ids")
    if not all(isinstance(token_id, int) and 0 <= token_id < vocab_size for token_id in token_ids):
        raise BadAnswer(f"it sent a token that OMNI_MODEL does not have: {token_ids[:8]}")
    logprobs = () if num_top is None else read_logprobs(choices[0].get("logprobs"), token_ids, num_top)
    return TokenChunk(tuple(token_ids), logprobs)


def read_error(status: int, body: Any) -> Lost | Refused:
    """The event of an error object: Refused for the request's fault, Lost for the server's."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": str(error or body)}
    code = error.get("code")
    status = code if isinstance(code, int) else status
    message = str(error.get("message", ""))[:500]
    if status >= 500 or status == 429:
        return Lost(f"{status}: {message}", was_asked=status == 500)
    if status in (401, 403):
        return Refused(BackendError.code, "The engine behind this service does not take its key.")
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
