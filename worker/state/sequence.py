"""A request inside the engine: one `RequestState`, and one `Sequence` for each of its `n` choices."""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from common.wire import Finished, FinishReason, GenerationRequest, SamplingParams
from worker.state.stopping import VisibleText, finish_reason


class GrammarState(Protocol):
    """Where one sequence stands in its grammar (worker/sampling/grammar.py)."""

    def accept(self, token_ids: list[int]) -> None: ...
    def fill_mask(self, bitmask_row: torch.Tensor) -> None: ...
    @property
    def is_finished(self) -> bool: ...
    def copy(self) -> "GrammarState": ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of one request: its tokens, how far its KV is computed, and the text it has shown.

    `token_ids` holds the prompt and everything drawn so far; the next `token_ids[num_computed:]` go through the model.
    A last one below 0 is pending: drawn as number `-1 - id` of the step in flight, and still on the device.
    """

    request_id: str
    index: int
    sampling: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    text: VisibleText
    ends: frozenset[int]  # token ids that end the sequence
    cache_salt: str = ""
    images: tuple[str, ...] = ()
    images_end: int = 0  # tokens up to the end of the last one
    position_shift: int = 0  # of all tokens after its images, which may take more or fewer positions than tokens
    grammar: GrammarState | None = None
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks of token_ids, as far as needed
    draft: list[int] = field(default_factory=list)  # guessed next tokens, to be verified in this step
    is_wide: bool = False  # top_p once held more tokens than the sampler's candidates
    is_preempted: bool = False  # its KV was given up for others'
    finish_reason: FinishReason | None = None

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def is_pending(self) -> bool:
        return self.token_ids[-1] < 0

    @property
    def is_decoding(self) -> bool:
        """Only the token drawn last is missing from the KV cache."""
        return self.num_uncomputed == 1 and self.num_computed > 0

    def accept(self, token_id: int, max_model_len: int) -> str:
        """Append a drawn token; returns the text it made visible and sets `finish_reason` when it is the last."""
        if self.is_pending:
            self.token_ids.pop()
        self.token_ids.append(token_id)
        is_end = token_id in self.ends
        text = "" if is_end else self.text.push(token_id)
        self.finish_reason = finish_reason(
            token_id,
            self.num_completion_tokens,
            len(self.token_ids),
            ends=self.ends,
            max_tokens=self.sampling.max_tokens,
            max_model_len=max_model_len,
        )
        if self.grammar is not None and not is_end:
            self.grammar.accept([token_id])
            if self.grammar.is_finished:
                self.finish_reason = "stop"
        if self.text.is_stopped:
            self.finish_reason = "stop"
        return text + self.text.flush() if self.finish_reason else text

    def take_back(self) -> None:
        """The pending token could not be decided: the last one before it goes through the model again."""
        self.token_ids.pop()
        self.num_computed = min(self.num_computed, len(self.token_ids) - 1)
        self.is_wide = True


@dataclass(slots=True, eq=False)
class RequestState:
    """All choices of one request, and what its last event will say."""

    request: GenerationRequest
    sequences: list[Sequence]
    cached_tokens: int | None = None  # prompt tokens found in the cache at the first admission

    @property
    def is_finished(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def completion_tokens(self) -> int:
        return sum(sequence.num_completion_tokens for sequence in self.sequences)

    def finished(self) -> Finished:
        return Finished(len(self.request.prompt_ids), self.completion_tokens, self.cached_tokens or 0)
