"""Which tokens of which sequences the next step computes. First come, first served; running ones never stall."""

from collections import deque
from collections.abc import Collection

from worker.engine.growth import Demand, Forecast
from worker.runners.limits import Limits
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence


class Scheduler:
    """Owns `waiting` and `running` (oldest first) and the right to take KV blocks from a sequence."""

    def __init__(self, kv_cache: KVCache, limits: Limits) -> None:
        self.kv_cache = kv_cache
        self.max_num_seqs = limits.max_num_seqs
        self.max_step_tokens = max(limits.max_step_tokens, limits.max_num_seqs)
        self.max_burst_tokens = max(limits.max_burst_tokens, limits.max_num_seqs)
        self.max_chunk_pairs = limits.max_chunk_pairs
        self.max_model_len = limits.max_model_len
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_recomputed = 0  # tokens of sequences that go on after they had been put aside, or in another worker
        self.forecast = Forecast(kv_cache, limits.max_model_len)
        self.suspects: set[str] = set()  # request ids; while there are any, nobody else runs

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """The rows of the next step: decodes, then prompts under way, then new ones, within the step's tokens.

        They count as computed from here on.
        """
        rows: dict[int, ScheduledSequence] = {}
        budget = self._step_tokens()
        has_company = any(sequence.is_decoding for sequence in self.running)
        for is_decoding in (True, False):
            for sequence in [seq for seq in self.running if seq.is_decoding is is_decoding and self._may_run(seq)]:
                if budget == 0 or self._is_drawn_out(sequence) or not sequence.block_ids:  # preempted meanwhile
                    continue
                num_tokens = min(sequence.num_uncomputed, budget)
                if has_company:
                    num_tokens = min(num_tokens, self._longest_chunk(sequence))
                if self._make_room(sequence, num_tokens, rows):
                    rows[id(sequence)] = ScheduledSequence(sequence, num_tokens)
                    budget = max(0, budget - num_tokens - len(sequence.draft))
        while budget > 0 and (admitted := self._admit_next()):
            num_tokens = min(admitted.num_uncomputed, budget)
            rows[id(admitted)] = ScheduledSequence(admitted, num_tokens)
            budget -= num_tokens
        for row in rows.values():
            row.sequence.num_computed += row.num_tokens
        return list(rows.values())

    def finish(self, sequence: Sequence) -> None:
        """Free the sequence's place and blocks, wherever it stands."""
        if sequence.finish_reason is not None:
            self.forecast.answers.ended(sequence.num_completion_tokens, sequence.sampling.max_tokens)
        if sequence in self.running:
            self.running.remove(sequence)
            self.kv_cache.release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """Whether a request of this size would start to run in the next step, without these others (request ids).

        An idle engine takes anything; one that has put sequences aside takes them on again first.
        """
        return self._takes(self.forecast.of_new(num_prompt_tokens, max_tokens), n, without)

    def has_ample_room(self) -> bool:
        """Whether a request of any length, with one choice, would start to run in the next step."""
        num_blocks = self.kv_cache.num_blocks_for(self.max_model_len)
        return self._takes(Demand(num_blocks, num_blocks), 1)

    def _takes(self, new: Demand, n: int, without: Collection[str] = ()) -> bool:
        running, waiting = (
            [sequence for sequence in sequences if sequence.request_id not in without]
            for sequences in (self.running, self.waiting)
        )
        if not running and not waiting:
            return True
        num_ahead = sum(sequence.num_uncomputed for sequence in (*running, *waiting))
        num_seqs = len(running) + len(waiting) + n
        is_short = any(sequence.is_preempted for sequence in waiting)
        if num_ahead >= self.max_burst_tokens or num_seqs > self.max_num_seqs or is_short:
            return False
        gone = [block_id for sequence in self.running if sequence not in running for block_id in sequence.block_ids]
        num_free = self.kv_cache.pool.num_free + len(self.kv_cache.pool.exclusive(gone))
        queued = [self.forecast.of_waiting(sequence) for sequence in waiting]
        return self.forecast.suffices(running, [*queued, *[new] * n], num_free)

    @property
    def num_preempted(self) -> int:
        """Sequences that were put aside and wait for room."""
        return sum(sequence.is_preempted for sequence in self.waiting)

    def _can_grow(self, head: Sequence) -> bool:
        """An empty engine takes what fits now: nobody has more than the cache holds."""
        num_free = self.kv_cache.pool.num_free
        return not self.running or self.forecast.suffices(self.running, [self.forecast.of_waiting(head)], num_free)

    def _step_tokens(self) -> int:
        """More while prompts wait behind the one under way: so the last of a crowd is answered sooner."""
        prompts = [sequence for sequence in (*self.running, *self.waiting) if not sequence.is_decoding]
        num_behind = sum(sequence.num_uncomputed for sequence in prompts[1:])
        return self.max_burst_tokens if num_behind >= self.max_step_tokens else self.max_step_tokens

    def _longest_chunk(self, sequence: Sequence) -> int:
        """Tokens of a prompt that may go beside others' next ones: the more it has behind it, the dearer is each."""
        return max(1, self.max_chunk_pairs // (sequence.num_computed + 1))

    def _may_run(self, sequence: Sequence) -> bool:
        return not self.suspects or sequence.request_id in self.suspects

    def _is_drawn_out(self, sequence: Sequence) -> bool:
        """Its last token is drawn, though not read yet."""
        is_full = len(sequence.token_ids) >= self.max_model_len
        return sequence.is_pending and (is_full or sequence.num_completion_tokens >= sequence.sampling.max_tokens)

    def _admit_next(self) -> Sequence | None:
        """Move the head of the line to running, or None: nobody overtakes a head that does not fit."""
        head = next((sequence for sequence in self.waiting if self._may_run(sequence)), None)
        if head is None or self._waits_for_sibling(head):
            return None
        while len(self.running) >= self.max_num_seqs or not self._can_grow(head) or not self.kv_cache.admit(head):
            paused = next((sequence for sequence in reversed(self.running) if not self._may_run(sequence)), None)
            if paused is None:
                return None
            self._preempt(paused)  # else those who wait for the suspects would keep them out
        self.waiting.remove(head)
        self.running.append(head)
        if head.is_preempted or head.num_completion_tokens:
            self.num_recomputed += head.num_uncomputed - 1
        head.is_preempted = False
        return head

    def _waits_for_sibling(self, head: Sequence) -> bool:
        """Choices of one request share a prompt: the first of them computes it, the others find it in the cache."""
        return self.kv_cache.shares_prefixes and any(
            sequence.request_id == head.request_id and sequence.num_computed < sequence.num_prompt_tokens
            for sequence in self.running
        )

    def _make_room(self, sequence: Sequence, num_tokens: int, rows: dict[int, ScheduledSequence]) -> bool:
        """Blocks for the row, taken from the youngest if need be; False if the youngest is the sequence itself."""
        num_needed = sequence.num_computed + num_tokens
        if not self.kv_cache.reserve(sequence, num_needed + len(sequence.draft)):
            sequence.draft = []  # nobody is preempted for a guess
        while not self.kv_cache.reserve(sequence, num_needed):
            victim = self.running[-1]
            self._preempt(victim)
            self.forecast.answers.was_too_short()
            rows.pop(id(victim), None)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the line; its tokens are kept and its KV is computed again later."""
        self.num_preemptions += 1
        self.running.remove(sequence)
        self.kv_cache.release(sequence)
        sequence.draft = []
        sequence.is_preempted = True
        self.waiting.appendleft(sequence)
