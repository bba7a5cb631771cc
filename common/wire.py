"""The messages between the API and the worker: a request in one direction, events in the other.

    events = Delta* (Finished | Failed)

Text is never taken back. common/wire_codec.py turns these values into JSON and back.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from common.errors import InvalidRequest

FinishReason = Literal["stop", "length"]
Task = Literal["generate", "embed", "score"]
JobState = Literal["queued", "running", "finished", "failed", "cancelled"]
EndState = Literal["finished", "failed", "cancelled"]
Tier = Literal["priority", "default", "flex"]  # of service: the queue's classes, in their order
TIERS: tuple[Tier, ...] = get_args(Tier)  # the earliest first
GREEDY_BELOW = 1e-5  # a temperature below it draws only the likeliest token, and float32 divides badly by less
OPEN_TOKENS = 2048  # planned for an answer that only the context limits


def planned_tokens(num_prompt: int, max_tokens: int, max_model_len: int) -> int:
    """Of the tokens that an answer may have, those it is given room for. Agents set no limit, and write little."""
    is_open = num_prompt + max_tokens >= max_model_len
    return min(max_tokens, OPEN_TOKENS) if is_open else max_tokens


def job_id_of(answer_id: str, number: int) -> str:
    """The id of one of an answer's jobs, which are counted from 0; the first has the answer's own."""
    return f"{answer_id}-{number}" if number else answer_id


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling and the end of a sequence. The API has checked the ranges (api/schema/base.py)."""

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
    logprobs: int | None = None  # None: off; 0-20: alternatives to report with each token
    grammar: str | None = None  # llguidance grammar (JSON), or None for free text
    n: int = 1
    skip_special_tokens: bool = True  # in the text; False where tool calls are marked by special tokens


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One accepted request. `prompt_ids` are final: the worker neither renders nor tokenizes."""

    id: str
    model: str  # the served id that the caller used
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    cache_salt: str = ""  # prefix blocks are shared only within one salt (one API key)
    images: tuple[str, ...] = ()  # data URLs, for vision models
    input_lengths: tuple[int, ...] = ()  # for encoders: prompt_ids holds inputs of these lengths
    second_starts: tuple[int, ...] = ()  # for cross-encoders: where the second text of each input begins
    pairs: tuple[tuple[int, int], ...] = ()  # for scores by an embedder: the inputs whose vectors are compared
    adapter: str = ""  # the name of the adapter that computes it; empty: the base alone
    is_flex: bool = False  # it fills what others leave: others go first, at every step
    keep_alive_s: float | None = None  # its model stays loaded so long after it; -1: however long; None: as set


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One sampled token: its id, its log probability, and the likeliest alternatives (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """The new tokens of one choice after a step, the text that they made visible (may be empty), and its end."""

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """All choices ended. Each token is counted once, whatever was retried."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    ended: int = 0  # unix seconds when it was logged; 0: by a worker of a version before


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without a full answer: `code` for programs, `message` for people."""

    code: str
    message: str


Event = Delta | Finished | Failed


@dataclass(frozen=True, slots=True)
class LoggedChoice:
    """One choice as the log holds it when a worker continues a job."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model as the API needs it to encode prompts. The worker writes it to Redis."""

    queue: str
    names: tuple[str, ...]  # served ids; the first is the queue's name
    root: str  # the weights that run
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
    image_token: str = ""  # one per image in the prompt; the worker repeats it as often as the image needs
    task: Task = "generate"
    num_dimensions: int | None = None  # of an encoder's vectors
    tool_chat_template: str | None = None  # for conversations with tools, if the model has one of its own
    adapter: str = ""  # of the card of an adapter, which the API makes of its base's card
    file_format: str = "safetensors"  # of the weights' files, or "gguf"
    packing: str = ""  # of the weights in their files: Q4_K_M, GPTQ, BF16, ...
    file_bytes: int = 0  # of the weights' files; 0: not known

    @property
    def has_own_encoder(self) -> bool:
        """True for DeepSeek-V3.2, whose conversations are written by code: it is published without a chat template."""
        return self.architecture == "deepseek_v32" and self.chat_template is None

    def unknown_token(self, param: str, token: int) -> InvalidRequest:
        """What a request is told whose field `param` has a token that the model does not have."""
        return InvalidRequest(
            f"'{param}': {token} is not a token of this model; it has those from 0 to {self.vocab_size - 1}.",
            param=param,
        )
