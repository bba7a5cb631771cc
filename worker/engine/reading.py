"""How many prompt tokens a step takes and whose: short prompts do not wait for a long one, and steps stay short."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import takewhile

from worker.runners.limits import Limits
from worker.state.kv_cache import KVCache
from worker.state.sequence import Sequence

QUICK = 4  # a prompt goes before an older one that has so many times its tokens left
FIRST_TOKENS = 64  # of a step, before any was measured
LEAST_TOKENS = 16  # fewer cost as much
LONGEST_S, SHARED_S = 4.0, 1.0  # that reading prompts may take in a step: for one sequence alone, and beside others


def is_quick(num_tokens: int, older: int, max_step_tokens: int) -> bool:
    """True for a prompt that goes before an older one of more than a step; both by the tokens that are left to read."""
    return older > max(max_step_tokens, num_tokens * QUICK)


class Reading:
    """The prompt tokens of a step, by the times of the steps before it where these are not short in any case."""

    def __init__(self, limits: Limits, *, is_timed: bool) -> None:
        self.max_step_tokens = max(limits.max_step_tokens, limits.max_num_seqs)
        self.max_burst_tokens = max(limits.max_burst_tokens, limits.max_num_seqs)
        self.max_chunk_pairs = limits.max_chunk_pairs
        self._is_timed = is_timed
        self._per_second = FIRST_TOKENS / SHARED_S if is_timed else float("inf")  # tokens of prompts

    def note(self, num_tokens: int, seconds: float) -> None:
        """A step read so many tokens of prompts, in so much time beyond what it took otherwise."""
        per_second = num_tokens / max(seconds, 1e-6)
        is_short = seconds < SHARED_S / 2  # and may have cost more than its tokens do
        if self._is_timed and num_tokens and (per_second > self._per_second or not is_short):
            self._per_second = per_second

    def step_tokens(self, sequences: Seq[Sequence], *, is_flex: bool) -> int:
        """A step's tokens, more while prompts queue up, so that the last of a burst is answered sooner."""
        prompts = [sequence for sequence in sequences if sequence.is_flex is is_flex and not sequence.is_decoding]
        num_behind = sum(sequence.num_uncomputed for sequence in prompts[1:])
        return self.max_burst_tokens if num_behind >= self.max_step_tokens else self.max_step_tokens

    def most(self, budget: int, *, is_alone: bool) -> int:
        """Of so many tokens those that a step may read."""
        seconds = LONGEST_S if is_alone else SHARED_S
        return int(min(budget, max(LEAST_TOKENS, self._per_second * seconds)))

    def longest_chunk(self, sequence: Sequence) -> int:
        """Prompt tokens that may share a step with decodes: each costs more, the more tokens come before it."""
        return max(1, self.max_chunk_pairs // (sequence.num_computed + 1))

    def quick_ones(self, running: Iterable[Sequence], waiting: Iterable[Sequence]) -> list[Sequence]:
        """Prompts that go before the oldest one, the shortest first. Of those that wait, none after a preempted one."""
        prompts = [*running, *takewhile(lambda sequence: not sequence.is_preempted, waiting)]
        left = [sequence.num_uncomputed for sequence in prompts]
        found = [own for own, num in zip(prompts, left, strict=True) if is_quick(num, left[0], self.max_step_tokens)]
        return sorted(found, key=lambda sequence: sequence.num_uncomputed)


def is_last(sequence: Sequence, max_model_len: int) -> bool:
    """True if its pending token is the last one that it may have."""
    is_full = sequence.num_tokens >= max_model_len
    is_long = sequence.num_completion_tokens >= sequence.sampling.max_tokens
    return sequence.pending is not None and (is_full or is_long)


def waits_for_sibling(head: Sequence, running: Iterable[Sequence], kv_cache: KVCache) -> bool:
    """Another choice of the head's request is computing their prompt, which the head then finds in the cache."""
    return kv_cache.shares_prefixes and any(
        own.request_id == head.request_id and own.num_computed < own.num_prompt_tokens for own in running
    )


def has_blocks(head: Sequence, kv_cache: KVCache) -> bool:
    """Give the head its blocks, shared ones first; False if there is no room."""
    num_cached = kv_cache.allocate(head)
    if num_cached is not None:
        head.begin_at(num_cached)
    return num_cached is not None
