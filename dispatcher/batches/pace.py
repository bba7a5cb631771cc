"""How fast each batch goes, and when it will have ended at this pace."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dispatcher.batches.feeds import Feed

EVERY_S = 3.0
WEIGHT = 0.3  # of the latest interval
STALL_S = 60.0  # without a line that ended, a batch stands still


@dataclass(frozen=True, slots=True)
class Pace:
    """Lines per second, and the unix time of the expected end (None: it stands still, or expires before)."""

    batch_id: str
    lines_per_s: float
    eta: float | None
    has_moved: bool  # since the last look


class Paces:
    """Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._measured = clock()
        self._num_done: dict[str, int] = {}
        self._per_s: dict[str, float] = {}
        self._moved: dict[str, float] = {}  # when the last line ended, or the first look

    def remove(self, batch_id: str) -> None:
        self._num_done.pop(batch_id, None)
        self._per_s.pop(batch_id, None)
        self._moved.pop(batch_id, None)

    def due(self, feeds: Sequence[Feed]) -> list[Pace]:
        """The paces to note now; none while the last ones are fresh."""
        elapsed_s = self._clock() - self._measured
        if elapsed_s < EVERY_S:
            return []
        self._measured = self._clock()
        return [self._pace(feed, elapsed_s) for feed in feeds]

    def _pace(self, feed: Feed, elapsed_s: float) -> Pace:
        batch, num_done = feed.batch, feed.num_done
        latest = (num_done - self._num_done.get(batch.id, num_done)) / elapsed_s
        if latest > 0 or batch.id not in self._moved:
            self._moved[batch.id] = self._measured
        before = self._per_s.get(batch.id)
        per_s = latest if not before else before + WEIGHT * (latest - before)
        if self._measured - self._moved[batch.id] >= STALL_S:
            per_s = 0.0
        self._num_done[batch.id], self._per_s[batch.id] = num_done, per_s
        num_left = max(0, batch.num_total - num_done)
        ends = round(time.time() + num_left / per_s, 1) if per_s > 0 else None
        return Pace(batch.id, round(per_s, 3), ends if ends is not None and ends <= batch.expires else None, latest > 0)
