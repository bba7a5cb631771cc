"""What sequences will need of the KV cache before they end, so that none has to be put aside halfway."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from worker.state.kv_cache import KVCache
from worker.state.sequence import Sequence

LEARN = 1 / 32  # how much one ended answer counts


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one sequence, in blocks: what it holds alone, and the tokens until its end."""

    held: int
    growth: int


def most_blocks(demands: Iterable[Demand]) -> int:
    """The most that these hold at any one time, if they grow alike and each gives all back when it ends."""
    held = most = 0
    for number, demand in enumerate(sorted(demands, key=lambda demand: -demand.growth), 1):
        held += demand.held
        most = max(most, held + number * demand.growth)
    return most


class AnswerLengths:
    """How much of `max_tokens` answers take: all of it until some have shown otherwise, and more after each mistake."""

    def __init__(self) -> None:
        self.share = 1.0

    def ended(self, num_tokens: int, max_tokens: int) -> None:
        self.share += LEARN * (min(1.0, num_tokens / max(max_tokens, 1)) - self.share)

    def was_too_short(self) -> None:
        """Somebody had to be preempted."""
        self.share = (1 + self.share) / 2

    def expected(self, max_tokens: int, num_tokens: int) -> int:
        """Tokens of an answer that has `num_tokens` by now."""
        return min(max_tokens, max(round(self.share * max_tokens), num_tokens + 1))


class Forecast:
    """Whether the blocks of a KV cache suffice for some sequences until all have ended."""

    def __init__(self, kv_cache: KVCache, max_model_len: int) -> None:
        self.answers = AnswerLengths()
        self._kv_cache = kv_cache
        self._max_model_len = max_model_len

    def of_new(self, num_prompt_tokens: int, max_tokens: int) -> Demand:
        """Of a sequence that is not here yet."""
        num_tokens = self.answers.expected(max_tokens, 0)
        num_left = min(num_prompt_tokens + num_tokens, self._max_model_len) - num_prompt_tokens
        return Demand(self._kv_cache.num_blocks_for(num_prompt_tokens), self._kv_cache.num_blocks_for(max(0, num_left)))

    def of_waiting(self, sequence: Sequence) -> Demand:
        return Demand(self._kv_cache.num_missing(sequence), self._growth(sequence))

    def suffices(self, running: Seq[Sequence], new: Seq[Demand], num_free: int) -> bool:
        """Whether `num_free` blocks are enough for these sequences, which have theirs, and for the new ones."""
        growths = [self._growth(sequence) for sequence in running]
        if sum(growths) + sum(demand.held + demand.growth for demand in new) <= num_free:
            return True
        held = [len(self._kv_cache.pool.exclusive(sequence.block_ids)) for sequence in running]
        demands = [Demand(*pair) for pair in zip(held, growths, strict=True)]
        return most_blocks([*demands, *new]) <= num_free + sum(held)

    def _growth(self, sequence: Sequence) -> int:
        num_tokens = self.answers.expected(sequence.sampling.max_tokens, sequence.num_completion_tokens)
        at_end = min(sequence.num_prompt_tokens + num_tokens, self._max_model_len)
        return self._kv_cache.num_blocks_for(max(0, at_end - len(sequence.token_ids)))
