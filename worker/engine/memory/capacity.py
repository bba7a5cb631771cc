"""Whether a request that still waits in the queue would start to run at once."""

from collections.abc import Collection
from collections.abc import Sequence as Seq

from worker.engine.memory.growth import Demand, Forecast
from worker.engine.reading import is_quick
from worker.runners.limits import Limits
from worker.state.kv_cache import KVCache
from worker.state.sequence import Sequence

RESERVE = 8  # of so many places or KV blocks, one that flex requests leave free for others
MOST_PLACES = 8  # left free: when still more come, flex requests are given back


class Capacity:
    """Places and KV blocks that are left. Preempted sequences go first.

    For others flex sequences hold places, and blocks until somebody needs them, but take no time.
    """

    def __init__(
        self,
        kv_cache: KVCache,
        limits: Limits,
        forecast: Forecast,
        running: Collection[Sequence],
        waiting: Collection[Sequence],
    ) -> None:
        """`running` and `waiting`: the scheduler's own."""
        self._kv_cache = kv_cache
        self._limits = limits
        self._forecast = forecast
        self._running = running
        self._waiting = waiting
        self.num_paused = 0  # flex sequences that the last step left out

    def has_room(
        self,
        num_prompt_tokens: int,
        n: int,
        max_tokens: int = 1,
        without: Collection[str] = (),
        *,
        is_flex: bool = False,
    ) -> bool:
        """True if a request of this size would start in the next step, the request ids in `without` left out.

        An idle engine takes anything.
        """
        new = self._forecast.of_new(num_prompt_tokens, max_tokens)
        return self._takes(new, n, without, num_tokens=num_prompt_tokens, is_flex=is_flex)

    def has_ample_room(self, *, is_flex: bool = False) -> bool:
        """True if a request of any length, with one choice, would start in the next step."""
        num_blocks = self._kv_cache.num_blocks_for(self._limits.max_model_len)
        longest = self._limits.max_model_len
        return self._takes(Demand(num_blocks, num_blocks), 1, (), num_tokens=longest, is_flex=is_flex)

    def _takes(self, new: Demand, n: int, without: Collection[str], *, num_tokens: int, is_flex: bool) -> bool:
        running, waiting = (
            [sequence for sequence in sequences if sequence.request_id not in without]
            for sequences in (self._running, self._waiting)
        )
        if not running and not waiting:
            return True
        num_places = self._limits.max_num_seqs - len(running) - len(waiting) - n
        gone = [sequence for sequence in self._running if sequence.request_id in without]
        blocks = [block_id for sequence in gone for block_id in sequence.block_ids]
        num_free = self._kv_cache.pool.num_free + len(self._kv_cache.pool.exclusive(blocks))
        if is_flex:
            if self.num_paused or any(not sequence.is_flex for sequence in waiting):
                return False
            num_places -= max(1, min(MOST_PLACES, self._limits.max_num_seqs // RESERVE))
            num_free -= self._kv_cache.pool.num_blocks // RESERVE
        else:
            running, waiting = without_flex(running), without_flex(waiting)
        most_ahead = max(self._limits.max_burst_tokens, self._limits.max_num_seqs)
        if self._num_ahead(num_tokens, (*running, *waiting), is_flex=is_flex) >= most_ahead:
            return False
        return num_places >= 0 and self._suffices([new] * n, running, waiting, num_free)

    def _num_ahead(self, num_tokens: int, sequences: Seq[Sequence], *, is_flex: bool) -> int:
        """Tokens that are computed before a prompt of `num_tokens` is: not those of prompts that it goes before."""
        most = max(self._limits.max_step_tokens, self._limits.max_num_seqs)
        left = [sequence.num_uncomputed for sequence in sequences]
        return sum(num for num in left if is_flex or not is_quick(num_tokens, num, most))

    def _suffices(self, new: Seq[Demand], running: Seq[Sequence], waiting: Seq[Sequence], num_free: int) -> bool:
        if any(sequence.is_preempted for sequence in waiting):
            return False
        queued = [self._forecast.of_waiting(sequence) for sequence in waiting]
        return self._forecast.suffices(running, [*queued, *new], num_free)


def without_flex(sequences: Seq[Sequence]) -> list[Sequence]:
    return [sequence for sequence in sequences if not sequence.is_flex]
