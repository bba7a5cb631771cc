"""Chooses the tokens that the next step computes. First come, first served; running sequences never stall."""

from collections import deque
from collections.abc import Collection

from worker.engine.growth import Demand, Forecast
from worker.runners.limits import Limits
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence


class Scheduler:
    """Owns `waiting`, `running` (oldest first), and how far each sequence is computed."""

    def __init__(self, kv_cache: KVCache, limits: Limits, suspects: Collection[str] = ()) -> None:
        """`suspects`: ids of requests; while there are any, no others run."""
        self.kv_cache = kv_cache
        self.max_num_seqs = limits.max_num_seqs
        self.max_step_tokens = max(limits.max_step_tokens, limits.max_num_seqs)
        self.max_burst_tokens = max(limits.max_burst_tokens, limits.max_num_seqs)
        self.max_chunk_pairs = limits.max_chunk_pairs
        self.max_model_len = limits.max_model_len
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_recomputed = 0  # tokens of sequences that continue after a preemption or after another worker
        self.forecast = Forecast(kv_cache, limits.max_model_len)
        self._suspects = suspects

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """The batch of the next step: decodes, then started prompts, then new ones, within the step's token budget.

        Their tokens count as computed from now on.
        """
        rows: dict[int, ScheduledSequence] = {}
        budget = self._step_tokens()
        has_company = any(sequence.is_decoding for sequence in self.running)
        for is_decoding in (True, False):
            for sequence in [seq for seq in self.running if seq.is_decoding is is_decoding and self._may_run(seq)]:
                if budget == 0 or self._has_last_token(sequence) or not sequence.block_ids:  # preempted just now
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
            row.sequence.advance(row.num_tokens)
        return list(rows.values())

    def commit(self, row: ScheduledSequence, num_accepted: int) -> None:
        """The row's first `num_accepted` samples are tokens now; all but the last were computed as a draft."""
        num_verified = max(num_accepted - 1, 0)
        row.sequence.advance(num_verified)
        self.kv_cache.cache_blocks(row.sequence, row.start, row.start + row.num_tokens + num_verified)

    def share(self, row: ScheduledSequence) -> None:
        """The row is launched: later steps may share the blocks that it fills."""
        self.kv_cache.cache_blocks(row.sequence, row.start, row.start + row.num_tokens)

    def take_back(self, sequence: Sequence) -> None:
        """The sequence's pending token could not be decided: schedule the token before it again."""
        sequence.take_back()

    def finish(self, sequence: Sequence) -> None:
        """Free the sequence's place and blocks, whether it runs or waits."""
        if sequence.finish_reason is not None:
            self.forecast.ended(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self.kv_cache.free(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """True if a request of this size would start in the next step, the request ids in `without` left out.

        An idle engine takes anything. Preempted sequences go first.
        """
        return self._takes(self.forecast.of_new(num_prompt_tokens, max_tokens), n, without)

    def has_ample_room(self) -> bool:
        """True if a request of any length, with one choice, would start in the next step."""
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
        """Waiting sequences that were preempted."""
        return sum(sequence.is_preempted for sequence in tuple(self.waiting))  # other threads read it

    def _can_grow(self, head: Sequence) -> bool:
        """True if the cache can hold the head to its end. An idle engine takes any head that fits now."""
        num_free = self.kv_cache.pool.num_free
        return not self.running or self.forecast.suffices(self.running, [self.forecast.of_waiting(head)], num_free)

    def _step_tokens(self) -> int:
        """The step's token budget, larger while prompts queue up, so that the last of a burst is answered sooner."""
        prompts = [sequence for sequence in (*self.running, *self.waiting) if not sequence.is_decoding]
        num_behind = sum(sequence.num_uncomputed for sequence in prompts[1:])
        return self.max_burst_tokens if num_behind >= self.max_step_tokens else self.max_step_tokens

    def _longest_chunk(self, sequence: Sequence) -> int:
        """Prompt tokens that may share a step with decodes: each costs more, the more tokens come before it."""
        return max(1, self.max_chunk_pairs // (sequence.num_computed + 1))

    def _may_run(self, sequence: Sequence) -> bool:
        return not self._suspects or sequence.request_id in self._suspects

    def _has_last_token(self, sequence: Sequence) -> bool:
        """True if its pending token is the last one that it may have."""
        is_full = sequence.num_tokens >= self.max_model_len
        is_long = sequence.num_completion_tokens >= sequence.sampling.max_tokens
        return sequence.pending is not None and (is_full or is_long)

    def _admit_next(self) -> Sequence | None:
        """Move the head of `waiting` to `running`; None if it does not fit. No sequence overtakes the head."""
        head = next((sequence for sequence in self.waiting if self._may_run(sequence)), None)
        if head is None or self._waits_for_sibling(head):
            return None
        while len(self.running) >= self.max_num_seqs or not self._can_grow(head) or not self._allocate(head):
            paused = next((sequence for sequence in reversed(self.running) if not self._may_run(sequence)), None)
            if paused is None:
                return None
            self._preempt(paused)  # it waits for the suspects, and must not keep them out
        self.waiting.remove(head)
        self.running.append(head)
        if head.is_preempted or head.num_completion_tokens:
            self.num_recomputed += head.num_uncomputed - 1
        head.is_preempted = False
        return head

    def _allocate(self, head: Sequence) -> bool:
        """Give the head its blocks, shared ones first; False if there is no room."""
        num_cached = self.kv_cache.allocate(head)
        if num_cached is None:
            return False
        head.begin_at(num_cached)
        return True

    def _waits_for_sibling(self, head: Sequence) -> bool:
        """Another choice of the head's request is computing their prompt, which the head then finds in the cache."""
        return self.kv_cache.shares_prefixes and any(
            sequence.request_id == head.request_id and sequence.num_computed < sequence.num_prompt_tokens
            for sequence in self.running
        )

    def _make_room(self, sequence: Sequence, num_tokens: int, rows: dict[int, ScheduledSequence]) -> bool:
        """Blocks for the row, taken from the youngest if necessary; False if that is the sequence itself."""
        num_needed = sequence.num_computed + num_tokens
        if not self.kv_cache.reserve(sequence, num_needed + len(sequence.draft)):
            sequence.draft = []  # no sequence is preempted for a draft
        while not self.kv_cache.reserve(sequence, num_needed):
            victim = self.running[-1]
            self._preempt(victim)
            self.forecast.answers.was_too_short()
            rows.pop(id(victim), None)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Return a sequence to the head of `waiting`; its tokens are kept, its KV is computed again later."""
        self.num_preemptions += 1
        self.running.remove(sequence)
        self.kv_cache.free(sequence)
        sequence.begin_at(0)
        sequence.draft = []
        sequence.is_preempted = True
        self.waiting.appendleft(sequence)
