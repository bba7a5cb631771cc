"""Forecasts how many KV blocks sequences need until they end, so that preemptions are rare."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from common.wire import planned_tokens
from worker.state.kv_cache import KVCache
from worker.state.sequence import Sequence

LEARN = 1 / 32  # weight of one ended answer


@dataclass(frozen=True, slots=True)
class Demand:
    """KV blocks of one sequence: those that it alone holds, and those that it still needs."""

    held: int
    growth: int


def most_blocks(demands: Iterable[Demand]) -> int:
    """The most blocks held at any time, if all grow at the same rate and free their blocks when they end."""
    held = most = 0
    for number, demand in enumerate(sorted(demands, key=lambda demand: -demand.growth), 1):
        held += demand.held
        most = max(most, held + number * demand.growth)
    return most


class AnswerLengths:
    """The share of their planned tokens that answers take: learned from ended answers, raised after each preemption."""

    def __init__(self) -> None:
        self.share = 1.0

    def ended(self, num_tokens: int, planned: int) -> None:
        self.share += LEARN * (min(1.0, num_tokens / max(planned, 1)) - self.share)

    def was_too_short(self) -> None:
        """A sequence had to be preempted."""
        self.share = (1 + self.share) / 2

    def expected(self, planned: int, num_tokens: int) -> int:
        """Expected length of an answer that has `num_tokens` so far."""
        return max(round(self.share * planned), num_tokens + 1)


class Forecast:
    """Tells if the free KV blocks suffice until all of some sequences have ended."""

    def __init__(self, kv_cache: KVCache, max_model_len: int) -> None:
        self.answers = AnswerLengths()
        self._kv_cache = kv_cache
        self._max_model_len = max_model_len

    def ended(self, sequence: Sequence) -> None:
        self.answers.ended(sequence.num_completion_tokens, self._planned_for(sequence))

    def of_new(self, num_prompt_tokens: int, max_tokens: int) -> Demand:
        """Demand of a sequence that is not admitted yet."""
        planned = planned_tokens(num_prompt_tokens, max_tokens, self._max_model_len)
        num_tokens = min(max_tokens, self.answers.expected(planned, 0))
        num_left = min(num_prompt_tokens + num_tokens, self._max_model_len) - num_prompt_tokens
        return Demand(self._kv_cache.num_blocks_for(num_prompt_tokens), self._kv_cache.num_blocks_for(max(0, num_left)))

    def of_waiting(self, sequence: Sequence) -> Demand:
        return Demand(self._kv_cache.num_missing(sequence), self._growth(sequence))

    def suffices(self, running: Seq[Sequence], new: Seq[Demand], num_free: int) -> bool:
        """True if `num_free` blocks are enough for the running sequences to grow and for the new ones."""
        growths = [self._growth(sequence) for sequence in running]
        if sum(growths) + sum(demand.held + demand.growth for demand in new) <= num_free:
            return True
        held = [len(self._kv_cache.pool.exclusive(sequence.block_ids)) for sequence in running]
        demands = [Demand(*pair) for pair in zip(held, growths, strict=True)]
        return most_blocks([*demands, *new]) <= num_free + sum(held)

    def _growth(self, sequence: Sequence) -> int:
        expected = self.answers.expected(self._planned_for(sequence), sequence.num_completion_tokens)
        num_tokens = min(sequence.sampling.max_tokens, expected)
        at_end = min(sequence.num_prompt_tokens + num_tokens, self._max_model_len)
        return self._kv_cache.num_blocks_for(max(0, at_end - sequence.num_tokens))

    def _planned_for(self, sequence: Sequence) -> int:
        return planned_tokens(sequence.num_prompt_tokens, sequence.sampling.max_tokens, self._max_model_len)
