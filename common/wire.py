"""What crosses between the API and the worker: a request one way, a grammar of events the other way.

    events = Delta* (Finished | Failed)

Text is never taken back. Everything is JSON; the field names of a log row are short because every token pays for them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from common.errors import WireError

FinishReason = Literal["stop", "length"]
Task = Literal["generate", "embed"]
JobState = Literal["queued", "running", "finished", "failed", "cancelled"]
EndState = Literal["finished", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn and when a sequence ends. Ranges were checked at the door (api/schema/base.py)."""

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None  # None: off; 0-20: alternatives beside the drawn token
    grammar: str | None = None  # llguidance grammar (JSON), or None for free text
    n: int = 1
    skip_special_tokens: bool = True  # in the text; False where the marks of tool calls are special tokens


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One accepted request. `prompt_ids` are final: nobody renders or tokenizes again after the door."""

    id: str
    model: str  # the served id that the caller used
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    cache_salt: str = ""  # prefix blocks are shared only within one salt (one API key)
    images: tuple[str, ...] = ()  # data URLs, for vision models
    input_lengths: tuple[int, ...] = ()  # to be embedded: prompt_ids are these many inputs, one after the other


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One drawn token: its id, the log of its probability, and the likeliest alternatives (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one choice: token ids, the text they made visible (may be empty), and its end."""

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """All choices ended. Each token was counted once, whatever was retried."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without a full answer: `code` for programs, `message` for people."""

    code: str
    message: str


Event = Delta | Finished | Failed


@dataclass(frozen=True, slots=True)
class LoggedChoice:
    """What the log already holds of one choice when a successor takes a job over."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None


def encode_request(request: GenerationRequest) -> bytes:
    return orjson.dumps(request)


def decode_request(raw: bytes | str) -> GenerationRequest:
    """Raises WireError if the bytes are not a request of this version."""
    try:
        fields = orjson.loads(raw)
        sampling = fields.pop("sampling")
        for name in ("stop", "stop_token_ids"):
            sampling[name] = tuple(sampling[name])
        sampling["logit_bias"] = tuple((int(token), float(bias)) for token, bias in sampling["logit_bias"])
        fields["prompt_ids"] = tuple(fields["prompt_ids"])
        for name in ("images", "input_lengths"):
            fields[name] = tuple(fields.get(name, ()))
        return GenerationRequest(sampling=SamplingParams(**sampling), **fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a request: {raw[:80]!r}") from error


def encode_event(event: Event) -> bytes:
    """One log row. Deltas name their fields by one letter: i index, t token ids, x text, l logprobs, f finish."""
    if isinstance(event, Delta):
        row: dict[str, Any] = {"i": event.index, "t": event.token_ids, "x": event.text}
        if event.logprobs:
            row["l"] = [(item.token_id, item.logprob, item.top) for item in event.logprobs]
        if event.finish_reason is not None:
            row["f"] = event.finish_reason
        return orjson.dumps(row)
    if isinstance(event, Finished):
        return orjson.dumps({"end": event})
    return orjson.dumps({"fail": event})


def decode_event(row: dict[str, Any]) -> Event:
    """Raises WireError if the row is not one of our events."""
    try:
        if "end" in row:
            return Finished(**row["end"])
        if "fail" in row:
            return Failed(**row["fail"])
        logprobs = tuple(
            TokenLogprob(token_id, logprob, tuple((int(t), float(p)) for t, p in top))
            for token_id, logprob, top in row.get("l", ())
        )
        return Delta(row["i"], tuple(row["t"]), row["x"], logprobs, row.get("f"))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not an event: {row!r}") from error


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the API must know of a served model to encode prompts for it. Written to Redis by the worker."""

    queue: str
    names: tuple[str, ...]  # served ids; the first is the queue's name
    root: str  # the weights that really run
    revision: str
    architecture: str  # transformers' model_type
    max_model_len: int
    vocab_size: int
    created: int  # unix seconds
    tokenizer: str  # tokenizer.json
    chat_template: str | None
    special_tokens: dict[str, str] = field(default_factory=dict)  # bos_token, eos_token, ... as templates use them
    eos_token_ids: tuple[int, ...] = ()
    accepts_images: bool = False
    image_token: str = ""  # one for each image; the worker puts as many as the image takes
    task: Task = "generate"
    num_dimensions: int | None = None  # of an encoder's vectors


def encode_card(card: ModelCard) -> bytes:
    return orjson.dumps(card)


def decode_card(raw: bytes | str) -> ModelCard:
    """Raises WireError if the bytes are not a model card."""
    try:
        fields = orjson.loads(raw)
        fields["names"] = tuple(fields["names"])
        fields["eos_token_ids"] = tuple(fields["eos_token_ids"])
        return ModelCard(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError("not a model card") from error
