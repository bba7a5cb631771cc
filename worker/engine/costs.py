"""What steps cost, learned from the steps themselves: decoding rows, prompt tokens, and the pairs of attention."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from worker.drafting.lengths import rounded
from worker.state.scheduled_sequence import ScheduledSequence

WEIGHT = 0.2  # of a new measurement in a size's mean
OUTLIER = 3.0  # times what was expected, beyond which a measurement counts no further
MEMORY = 0.999  # of what is known of pairs, per measurement
EVEN_S = 1e-6  # of a token, while nothing was measured
KEPT_STEPS = 4096  # after so many without a measurement a size is forgotten: what it cost then may be wrong by now


@dataclass(slots=True)
class Mean:
    """The measurements of one size."""

    pairs: float
    seconds: float
    seen: int  # the number of the last one
    num: int = 1


class Costs:
    """Seconds of one kind of work by its size and its query-key pairs. Between two sizes on a straight line.

    low() and high() bound what is likely: a smaller size costs no more than a larger one that was measured, and a
    larger one no less than a smaller. So a stale measurement forbids rather than allows, until it is made again.
    """

    def __init__(self) -> None:
        self._means: dict[int, Mean] = {}
        self._num_notes = 0
        self._covariance = self._variance = self._noise = self._weight = 0.0  # of seconds and pairs, within one size
        self.per_pair = 0.0  # seconds of one pair
        self._sizes: list[int] | None = None  # None: the next two are out of date
        self._bases: list[float] = []
        self._least: list[float] = []  # of this size and all larger ones
        self._most: list[float] = []  # of this size and all smaller ones

    def note(self, size: int, pairs: int, seconds: float) -> None:
        self._num_notes += 1
        size, self._sizes = rounded(size), None
        mean = self._means.get(size)
        if mean is None:
            self._means[size] = Mean(pairs, seconds, self._num_notes)
            return
        more = pairs - mean.pairs
        longer = min(seconds, OUTLIER * (mean.seconds + max(0.0, self.per_pair * more))) - mean.seconds
        self._learn_pairs(more, longer)
        mean.num, mean.seen = mean.num + 1, self._num_notes
        weight = max(WEIGHT, 1 / mean.num)
        mean.pairs += weight * more
        mean.seconds += weight * longer
        if self._num_notes % KEPT_STEPS == 0:
            self._forget()

    def low(self, size: int, pairs: int) -> float:
        """Zero for a size smaller than any that was measured."""
        sizes = self._up_to_date()
        if not size or not sizes or size < sizes[0]:
            return 0.0
        at = bisect_left(sizes, size)
        if at == len(sizes):
            return self._bases[-1] + self.per_pair * pairs
        return min(self._between(size, at), self._least[at]) + self.per_pair * pairs

    def high(self, size: int, pairs: int, *, tries: bool = True) -> float:
        """Infinite for a size larger than any that was measured; `tries`: an eighth more is as the trend so far."""
        if not size:
            return 0.0
        sizes = self._up_to_date()
        if not sizes:
            return math.inf
        at = bisect_left(sizes, size)
        if at < len(sizes):
            return max(self._between(size, at), self._most[at - 1] if at else 0.0) + self.per_pair * pairs
        last = sizes[-1]
        if not tries or size > last + max(1, last // 8):
            return math.inf
        trend = (self._bases[-1] - self._bases[0]) / (last - sizes[0]) if len(sizes) > 1 else 0.0
        return self._most[-1] + max(0.0, trend) * (size - last) + self.per_pair * pairs

    def _between(self, size: int, at: int) -> float:
        """`at`: index of the first size that is not smaller."""
        assert self._sizes is not None
        right = self._bases[at]
        if not at or self._sizes[at] == size:
            return right
        left, before = self._bases[at - 1], self._sizes[at - 1]
        return left + (right - left) * (size - before) / (self._sizes[at] - before)

    def _up_to_date(self) -> list[int]:
        if self._sizes is None:
            self._sizes = sorted(self._means)
            means = [self._means[size] for size in self._sizes]
            self._bases = [max(0.0, mean.seconds - self.per_pair * mean.pairs) for mean in means]
            self._most = list(accumulate(self._bases, max))
            self._least = list(accumulate(reversed(self._bases), min))[::-1]
        return self._sizes

    def _learn_pairs(self, more: float, longer: float) -> None:
        """Seconds of a pair, as far as they stand out from the noise: two standard errors are taken off."""
        self._covariance = MEMORY * self._covariance + more * longer
        self._variance = MEMORY * self._variance + more * more
        self._noise = MEMORY * self._noise + (longer - self.per_pair * more) ** 2
        self._weight = MEMORY * self._weight + 1
        if self._variance > 0:
            error = math.sqrt(self._noise / self._weight / self._variance)
            self.per_pair = max(0.0, self._covariance / self._variance - 2 * error)

    def _forget(self) -> None:
        oldest = self._num_notes - KEPT_STEPS
        self._means = {size: mean for size, mean in self._means.items() if mean.seen > oldest}


class Load(NamedTuple):
    """What a step computes."""

    decoded: int = 0  # tokens of rows that decode, drafts included
    decoded_pairs: int = 0
    read: int = 0  # tokens of prompts
    read_pairs: int = 0

    def plus(self, start: int, num_tokens: int, *, is_decoding: bool) -> "Load":
        pairs = num_tokens * start + num_tokens * (num_tokens + 1) // 2
        if is_decoding:
            return Load(self.decoded + num_tokens, self.decoded_pairs + pairs, self.read, self.read_pairs)
        return Load(self.decoded, self.decoded_pairs, self.read + num_tokens, self.read_pairs + pairs)


NOTHING = Load()


RowWork = tuple[str, int, int, bool]  # request id, tokens, pairs, whether it decodes


def work_of(rows: Iterable[ScheduledSequence]) -> tuple[Load, list[RowWork]]:
    """Of a step that is launched: when its cost is known, the drafts are gone."""
    decoded = decoded_pairs = read = read_pairs = 0
    works: list[RowWork] = []
    for row in rows:
        sequence = row.sequence
        num = row.num_tokens + len(sequence.draft)
        pairs = num * row.start + num * (num + 1) // 2
        is_decoding = row.samples and row.num_tokens == 1
        if is_decoding:
            decoded += num
            decoded_pairs += pairs
        else:
            read += num
            read_pairs += pairs
        works.append((sequence.request_id, num, pairs, is_decoding))
    return Load(decoded, decoded_pairs, read, read_pairs), works


class StepCosts:
    """Seconds of steps. Prompt tokens are what a step with them takes longer than one without."""

    def __init__(self) -> None:
        self.decoding = Costs()
        self.reading = Costs()

    def note(self, load: Load, seconds: float) -> None:
        """A step took so long."""
        if not load.read:
            self.decoding.note(load.decoded, load.decoded_pairs, seconds)
        else:
            self.reading.note(load.read, load.read_pairs, self.of_reading(load, seconds))

    def of_reading(self, load: Load, seconds: float) -> float:
        """What prompts took of a step."""
        return max(seconds - self.decoding.low(load.decoded, load.decoded_pairs), seconds / 16)

    def low(self, load: Load) -> float:
        return self.decoding.low(load.decoded, load.decoded_pairs) + self.reading.low(load.read, load.read_pairs)

    def high(self, load: Load) -> float:
        return self.decoding.high(load.decoded, load.decoded_pairs) + self.reading.high(load.read, load.read_pairs)

    def extra(self, load: Load, more: Load, *, tries: bool) -> float:
        """The most that a step of `load` is likely to take longer with what `more` holds beyond it."""
        seconds = 0.0
        if more.decoded > load.decoded:
            without = self.decoding.low(load.decoded, load.decoded_pairs)
            seconds += self.decoding.high(more.decoded, more.decoded_pairs, tries=tries) - without
        if more.read > load.read:
            without = self.reading.low(load.read, load.read_pairs)
            seconds += self.reading.high(more.read, more.read_pairs, tries=tries) - without
        return seconds

    def charge(self, load: Load, works: Iterable[RowWork], seconds: float, to: dict[str, float]) -> None:
        """Divide a step's seconds among its requests, by what rows like theirs cost."""
        decoding = self.decoding.low(load.decoded, 0) / max(load.decoded, 1) or EVEN_S
        reading = self.reading.low(load.read, 0) / max(load.read, 1) or EVEN_S
        decoding_pair, reading_pair = self.decoding.per_pair, self.reading.per_pair
        whole = load.decoded * decoding + load.read * reading
        whole += load.decoded_pairs * decoding_pair + load.read_pairs * reading_pair
        scale = seconds / whole if whole else 0.0
        decoding, reading = decoding * scale, reading * scale
        decoding_pair, reading_pair = decoding_pair * scale, reading_pair * scale
        for request_id, num, pairs, is_decoding in works:
            cost = num * decoding + pairs * decoding_pair if is_decoding else num * reading + pairs * reading_pair
            to[request_id] = to.get(request_id, 0.0) + cost
