"""Chooses the tokens that the next step computes. First come, first served; running sequences never stall.

But half of what a step reads of prompts is for those much shorter than the oldest: nobody waits for a book to be read.

Flex sequences come after all others: they run in steps that nobody notices, and lose their KV blocks first.
"""

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as Seq

from worker.engine.costs import NOTHING, work_of
from worker.engine.flex import FlexRule, StepPace
from worker.engine.memory.capacity import Capacity
from worker.engine.memory.growth import Forecast
from worker.engine.reading import Reading, has_blocks, is_last, waits_for_sibling
from worker.runners.limits import Limits
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

Rows = dict[int, ScheduledSequence]  # id of a sequence -> its row


class Scheduler:
    """Owns `waiting`, `running` (oldest first), and how far each sequence is computed."""

    def __init__(
        self, kv_cache: KVCache, limits: Limits, suspects: Collection[str], flex: FlexRule, reading: Reading
    ) -> None:
        """`suspects`: ids of requests; while there are any, no others run."""
        self.kv_cache = kv_cache
        self.max_num_seqs = limits.max_num_seqs
        self.max_model_len = limits.max_model_len
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_recomputed = 0  # tokens of sequences that continue after a preemption or after another worker
        self.forecast = Forecast(kv_cache, limits.max_model_len)
        self.flex = flex
        self.reading = reading
        self.capacity = Capacity(kv_cache, limits, self.forecast, self.running, self.waiting)
        self._suspects = suspects

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    @property
    def has_others(self) -> bool:
        """There are sequences that are not flex."""
        return not all(sequence.is_flex for sequence in (*self.running, *self.waiting))

    def schedule(self) -> list[ScheduledSequence]:
        """The batch of the next step: decodes, then started prompts, then new ones, within the step's token budget.

        Then the same of flex sequences, at their pace. Their tokens count as computed from now on.
        """
        rows: Rows = {}
        budget = self.reading.step_tokens((*self.running, *self.waiting), is_flex=not self.has_others)
        if self.has_others:
            self.flex.note_others()
            budget = self._fill(rows, budget, None)
        num_flex = sum(sequence.is_flex for sequence in (*self.running, *self.waiting))
        if num_flex:
            num_others = len(rows)
            self._fill(rows, budget, self.flex.pace(work_of(rows.values())[0] if rows else NOTHING))
            num_flex -= len(rows) - num_others
        self.capacity.num_paused = num_flex
        for row in rows.values():
            row.sequence.advance(row.num_tokens)
        return list(rows.values())

    def _fill(self, rows: Rows, budget: int, pace: StepPace | None) -> int:
        """Add rows of flex sequences at this pace, or of others if it is None; returns what is left of the budget."""
        is_flex = pace is not None
        has_company = any(sequence.is_decoding for sequence in self.running if sequence.is_flex is is_flex)
        for is_decoding in (True, False):
            if pace is None and not is_decoding:
                budget = self.reading.most(budget, is_alone=len(self.running) + len(self.waiting) == 1)
                budget -= self._fill_quick(rows, budget // 2, has_company=has_company)
            for sequence in self._runnable(is_flex=is_flex, is_decoding=is_decoding):
                is_preempted = not sequence.block_ids  # just now
                if budget == 0 or is_last(sequence, self.max_model_len) or id(sequence) in rows or is_preempted:
                    continue
                num_tokens = min(sequence.num_uncomputed, budget)
                if has_company:
                    num_tokens = min(num_tokens, self.reading.longest_chunk(sequence))
                if pace is not None and not (num_tokens := pace.most(sequence, num_tokens)):
                    return budget
                if self._make_room(sequence, num_tokens, rows):
                    budget = self._add_row(rows, sequence, num_tokens, budget, pace)
        while budget > 0 and (head := self._next_waiting(is_flex=is_flex)) is not None:
            num_tokens = pace.most(head, min(head.num_uncomputed, budget)) if pace is not None else budget
            if not num_tokens or not self._admit(head):
                break
            budget = self._add_row(rows, head, min(head.num_uncomputed, num_tokens), budget, pace)
        return budget

    def _fill_quick(self, rows: Rows, budget: int, *, has_company: bool) -> int:
        """Add rows of prompts that go before the oldest one; returns how many tokens they take of the budget."""
        left = budget
        running = self._runnable(is_flex=False, is_decoding=False)
        waiting = [sequence for sequence in self.waiting if not sequence.is_flex and self._may_run(sequence)]
        for sequence in self.reading.quick_ones(running, waiting):
            num_tokens = min(sequence.num_uncomputed, left)
            if has_company:
                num_tokens = min(num_tokens, self.reading.longest_chunk(sequence))
            if not num_tokens:
                break
            if sequence not in self.running:
                ahead = waiting[: waiting.index(sequence)]
                if waits_for_sibling(sequence, self.running, self.kv_cache) or not self._admit(sequence, ahead):
                    continue
                waiting.remove(sequence)
                num_tokens = min(num_tokens, sequence.num_uncomputed)  # some may be in the cache
            elif not sequence.block_ids or not self._make_room(sequence, num_tokens, rows):
                continue
            left = self._add_row(rows, sequence, num_tokens, left, None)
        return budget - left

    def _add_row(self, rows: Rows, sequence: Sequence, num_tokens: int, budget: int, pace: StepPace | None) -> int:
        rows[id(sequence)] = ScheduledSequence(sequence, num_tokens)
        if pace is not None:
            pace.add(sequence, num_tokens)
        return max(0, budget - num_tokens - len(sequence.draft))

    def commit(self, row: ScheduledSequence, num_accepted: int) -> None:
        """The row's first `num_accepted` samples are tokens now; all but the last were computed as a draft."""
        num_verified = max(num_accepted - 1, 0)
        row.sequence.advance(num_verified)
        stop = row.start + row.num_tokens + num_verified
        self.kv_cache.cache_blocks(row.sequence, row.start, stop, is_final=row.has_its_blocks)

    def share(self, row: ScheduledSequence) -> None:
        """The row is launched: later steps may share the blocks that it fills."""
        self.kv_cache.cache_blocks(row.sequence, row.start, row.start + row.num_tokens)

    def finish(self, sequence: Sequence) -> None:
        """Free the sequence's place and blocks, whether it runs or waits."""
        if sequence.finish_reason is not None:
            self.forecast.ended(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self.kv_cache.free(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    @property
    def num_preempted(self) -> int:
        """Waiting sequences that were preempted."""
        return sum(sequence.is_preempted for sequence in tuple(self.waiting))  # other threads read it

    def _runnable(self, *, is_flex: bool, is_decoding: bool) -> list[Sequence]:
        return [
            sequence
            for sequence in self.running
            if sequence.is_flex is is_flex and sequence.is_decoding is is_decoding and self._may_run(sequence)
        ]

    def _can_grow(self, head: Sequence, ahead: Seq[Sequence]) -> bool:
        """True if the cache can hold the head to its end, and those `ahead` of it in the line, which it overtakes.

        An idle engine takes any head that fits now.
        """
        running = [sequence for sequence in self.running if head.is_flex or not sequence.is_flex]
        num_free = self.kv_cache.pool.num_free
        new = [self.forecast.of_waiting(sequence) for sequence in (*ahead, head)]
        return not running or self.forecast.suffices(running, new, num_free)

    def _may_run(self, sequence: Sequence) -> bool:
        return not self._suspects or sequence.request_id in self._suspects

    def _next_waiting(self, *, is_flex: bool) -> Sequence | None:
        """The head of `waiting`, which no sequence overtakes; a flex one only if no others wait."""
        others = next((seq for seq in self.waiting if not seq.is_flex and self._may_run(seq)), None)
        head = others or next((seq for seq in self.waiting if self._may_run(seq)), None)
        if head is None or head.is_flex is not is_flex or waits_for_sibling(head, self.running, self.kv_cache):
            return None
        return head

    def _admit(self, head: Sequence, ahead: Seq[Sequence] = ()) -> bool:
        """Move the head to `running`; False if it does not fit, or those `ahead` would not any more."""
        places = self.max_num_seqs - len(ahead)
        while len(self.running) >= places or not self._can_grow(head, ahead) or not has_blocks(head, self.kv_cache):
            yielding = [seq for seq in self.running if not self._may_run(seq) or (seq.is_flex and not head.is_flex)]
            if not yielding:
                return False
            self._preempt(yielding[-1])  # it waits for suspects or for others, and must not keep them out
        self.waiting.remove(head)
        self.running.append(head)
        if head.is_preempted or head.num_completion_tokens:
            self.num_recomputed += head.num_uncomputed - 1
        head.is_preempted = False
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int, rows: Rows) -> bool:
        """Blocks for the row, taken from the youngest if necessary, flex ones first; False if it is the youngest."""
        num_needed = sequence.num_computed + num_tokens
        if not self.kv_cache.reserve(sequence, num_needed + len(sequence.draft)):
            sequence.draft = []  # no sequence is preempted for a draft
        while not self.kv_cache.reserve(sequence, num_needed):
            victim = self.preempt_one()
            if victim.is_flex is sequence.is_flex:
                self.forecast.answers.was_too_short()
            rows.pop(id(victim), None)
            if victim is sequence:
                return False
        return True

    def preempt_one(self) -> Sequence:
        """Take the blocks of the youngest running sequence, of a flex one if there is any; returns it."""
        victim = next((other for other in reversed(self.running) if other.is_flex), self.running[-1])
        self._preempt(victim)
        return victim

    def _preempt(self, sequence: Sequence) -> None:
        """Return a sequence to the head of `waiting`; its tokens are kept, its KV is computed again later."""
        self.num_preemptions += 1
        self.running.remove(sequence)
        self.kv_cache.free(sequence)
        sequence.begin_at(0)
        sequence.draft = []
        sequence.is_preempted = True
        self.waiting.appendleft(sequence)
