"""A request inside the engine: one `RequestState`, and one `Sequence` for each of its `n` choices."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch

from common.wire import Finished, FinishReason, GenerationRequest, SamplingParams
from worker.state.stopping import VisibleText, finish_reason


class GrammarCursor(Protocol):
    """The position of one sequence in its grammar (worker/sampling/grammar.py)."""

    def accept(self, token_ids: list[int]) -> None: ...
    def fill_mask(self, bitmask_row: torch.Tensor) -> None: ...
    @property
    def is_finished(self) -> bool: ...
    def copy(self) -> "GrammarCursor": ...


class Grammars(Protocol):
    """Compiles a request's grammar (worker/sampling/grammar.py). Raises InvalidRequest."""

    def compile(self, grammar: str) -> GrammarCursor: ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of one request: its tokens, how much of their KV is computed, and the text shown so far.

    `token_ids` holds the prompt and every token sampled and read so far; only `append` adds to it (a draft model's copy
    follows its original). While steps overlap, one more token may be `pending`: sampled, but still on the device. It
    counts as a token of the sequence everywhere.
    """

    request_id: str
    index: int
    sampling: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    text: VisibleText
    stop_token_ids: frozenset[int]  # the request's own, and the model's end-of-sequence tokens unless they are ignored
    cache_salt: str = ""
    is_flex: bool = False  # it gives way to all others
    adapter: int = 0  # its slot in the runner; 0: the base alone
    images: tuple[str, ...] = ()
    images_end: int = 0  # number of tokens up to the end of the last image
    position_shift: int = 0  # for tokens after the images, whose positions may differ from their token counts
    grammar: GrammarCursor | None = None
    num_computed: int = 0  # tokens whose KV is computed or scheduled; changed by the three methods below only
    pending: int | None = None  # index of the newest token among the samples of the step in flight
    num_taken_back: int = 0  # pending tokens that could not be decided on the device
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the leading full blocks, computed as needed
    draft: list[int] = field(default_factory=list)  # guessed next tokens, verified in the next step
    is_preempted: bool = False  # its KV blocks were taken for other sequences
    finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + (self.pending is not None)

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) + (self.pending is not None) - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) + (self.pending is not None) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Only the newest token is missing from the KV cache."""
        return self.num_computed > 0 and self.num_uncomputed == 1

    @property
    def is_wide(self) -> bool:
        """Its top_p once needed more tokens than the sampler's candidates."""
        return self.num_taken_back > 0

    def append(self, token_id: int) -> None:
        """Add a token that was sampled and read; it takes the place of the pending one."""
        self.pending = None
        self.token_ids.append(token_id)

    def remove_last(self) -> int:
        """Take the newest token away again, to have it verified like a drafted one; returns it."""
        return self.token_ids.pop()

    def accept(self, token_id: int, max_model_len: int) -> str:
        """Append a sampled token; returns the text it made visible and sets `finish_reason` when it is the last."""
        self.append(token_id)
        is_stop = token_id in self.stop_token_ids
        text = "" if is_stop else self.text.push(token_id)
        self.finish_reason = finish_reason(
            token_id,
            self.num_completion_tokens,
            self.num_tokens,
            stop_token_ids=self.stop_token_ids,
            max_tokens=self.sampling.max_tokens,
            max_model_len=max_model_len,
        )
        if self.grammar is not None and not is_stop:
            self.grammar.accept([token_id])
            if self.grammar.is_finished:
                self.finish_reason = "stop"
        if self.text.is_stopped:
            self.finish_reason = "stop"
        return text + self.text.flush() if self.finish_reason else text

    def begin_at(self, num_cached: int) -> None:
        """Start over: only the first `num_cached` tokens are in the KV cache."""
        self.num_computed = num_cached

    def advance(self, num_tokens: int) -> None:
        """The next tokens are scheduled, or were computed as drafts that proved right."""
        self.num_computed += num_tokens

    def take_back(self) -> None:
        """The pending token could not be decided on the device: compute the one before it again."""
        self.pending = None
        self.num_taken_back += 1
        self.num_computed = min(self.num_computed, self.num_tokens - 1)


@dataclass(slots=True, eq=False)
class RequestState:
    """All choices of one request and its prefix cache hit."""

    request: GenerationRequest
    sequences: list[Sequence]
    cached_tokens: int | None = None  # prompt tokens found in the cache at the first admission
    added: float = field(default_factory=time.perf_counter)
    is_answered: bool = False  # it has had a token since

    @property
    def is_finished(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def completion_tokens(self) -> int:
        return sum(sequence.num_completion_tokens for sequence in self.sequences)

    def note_start(self, start: int, block_size: int) -> int:
        """The first row starts at token `start`, where the prefix cache ended; returns the cached tokens, once.

        A resumed row may start after the prompt. It counts no more than a new one, whose last prompt token is computed.
        """
        if self.cached_tokens is not None:
            return 0
        most = (len(self.request.prompt_ids) - 1) // block_size * block_size
        self.cached_tokens = min(start, most)
        return self.cached_tokens

    def finished(self) -> Finished:
        return Finished(len(self.request.prompt_ids), self.completion_tokens, self.cached_tokens or 0)
