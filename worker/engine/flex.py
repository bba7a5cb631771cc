"""How many flex rows a step takes: as many as nobody else notices."""

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection

from worker.engine.costs import NOTHING, Load, StepCosts
from worker.state.sequence import Sequence

SHARE = 0.1  # of a step of others, that flex rows may add to it; of nearly all first tokens, that steps before them may
PERCENTILE = 0.95  # of first tokens
NUM_WAITS = 32  # first tokens of others that are remembered
RECENT_S = 10.0  # after the last of others, in which the next one is expected
MIN_CHUNK = 16  # prompt tokens; fewer cost as much
TRY_EVERY = 64  # steps with others: in one of so many a size is tried that was never measured


class StepPace:
    """The room for flex rows in one step."""

    def __init__(
        self, costs: StepCosts, load: Load, limit_s: float, *, is_joining: bool = False, tries: bool = True
    ) -> None:
        """`load`: of others' rows; `is_joining`: there are some; `tries`: also sizes that were never measured."""
        self._costs = costs
        self._others = self._load = load
        self._limit_s = limit_s
        self._is_joining = is_joining
        self._tries = tries

    def most(self, sequence: Sequence, num_tokens: int) -> int:
        """As many of the sequence's next tokens as the step takes; 0: it waits, and so do all after it."""
        if self._limit_s == math.inf:
            return num_tokens
        is_decoding = sequence.is_decoding
        start, num_drafted = sequence.num_computed, len(sequence.draft) if is_decoding else 0
        if self._fits(self._load.plus(start, num_tokens + num_drafted, is_decoding=is_decoding)):
            return num_tokens
        least = min(MIN_CHUNK, num_tokens)
        most = bisect_right(
            range(1, num_tokens + 1),
            False,
            key=lambda num: not self._fits(self._load.plus(start, num, is_decoding=is_decoding)),
        )
        if most >= least:
            sequence.draft = []
            return most
        is_first = self._load == NOTHING and not self._is_joining
        if is_first:  # something must go on
            sequence.draft = []
        return least if is_first else 0

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        if self._limit_s < math.inf:
            num_inputs = num_tokens + len(sequence.draft)
            self._load = self._load.plus(sequence.num_computed, num_inputs, is_decoding=sequence.is_decoding)

    def _fits(self, load: Load) -> bool:
        if self._is_joining:
            return self._costs.extra(self._others, load, tries=self._tries) <= self._limit_s
        return self._costs.high(load) <= self._limit_s


class FlexRule:
    """Flex rows join others as far as they are free, and steps without others are short while others may come."""

    def __init__(self, costs: StepCosts, clock: Callable[[], float] = time.monotonic) -> None:
        self._costs = costs
        self._clock = clock
        self._seen_at = -math.inf  # when others were last in the engine
        self._waits = deque[float](maxlen=NUM_WAITS)  # of others for their first tokens, from add() on
        self._longest_s: float | None = None  # step without others; None: out of date
        self._num_shared = 0  # steps with others

    def note_others(self) -> None:
        """Others are in the engine now."""
        self._seen_at = self._clock()

    def note_first(self, seconds: float) -> None:
        """One of the others got its first token so long after it was added."""
        self._waits.append(seconds)
        self._longest_s = None

    def pace(self, load: Load) -> StepPace:
        """`load`: of the rows of others in the step."""
        if load == NOTHING:
            return StepPace(self._costs, load, self._limit_s())
        self._num_shared += 1
        limit_s = SHARE * self._costs.low(load)
        tries = self._num_shared % TRY_EVERY == 0
        return StepPace(self._costs, load, limit_s, is_joining=True, tries=tries)

    def _limit_s(self) -> float:
        """Of a step without others: as long as their first tokens allow, or as a step of few rows lasts in any case."""
        if self._clock() - self._seen_at > RECENT_S:
            return math.inf
        if self._longest_s is None:
            self._longest_s = longest_delay(self._waits)
        return max(self._longest_s, (1 + SHARE) * self._costs.low(Load(decoded=1)))


def longest_delay(waits: Collection[float]) -> float:
    """The longest step that may run when somebody comes, so that the 95th percentile of `waits` grows by a tenth.

    Who comes waits for a random part of it. The more the waits differ, the less most of them count.
    """
    limit = (1 + SHARE) * percentile(list(waits))
    shortest, longest = 0.0, 2 * limit
    for _ in range(12):
        middle = (shortest + longest) / 2
        delayed = [wait + part / 8 * middle for wait in waits for part in (1, 3, 5, 7)]
        shortest, longest = (middle, longest) if percentile(delayed) <= limit else (shortest, middle)
    return shortest


def percentile(values: list[float]) -> float:
    return sorted(values)[math.ceil(PERCENTILE * (len(values) - 1))] if values else 0.0
