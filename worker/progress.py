"""Progress of a worker's start: the current stage, and the share that is done (0 to 1)."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

OnProgress = Callable[[str, float], None]

WEIGHTS, MAPPED, KERNELS, RECORDING, FIRST_STEP, READY = 0.05, 0.70, 0.80, 0.85, 0.98, 1.0  # where each stage begins
PAUSE_S = 1.0  # at least, between two reports of one stage
MINUTE, HOUR = 60, 3600


def counted(
    what: str, items: Iterable[Any], num_items: int, span: tuple[float, float], on_progress: OnProgress
) -> Iterator[Any]:
    """Yield the items; at most once every PAUSE_S report how many of them are done."""
    reported_at = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - reported_at >= PAUSE_S:
            reported_at = time.monotonic()
            begin, end = span
            on_progress(f"{what}, {number} of {num_items}", begin + (end - begin) * number / num_items)
        yield item


class ByteProgress:
    """Reports how many bytes of a stage are done, and how long the rest takes at the pace so far."""

    def __init__(self, what: str, num_bytes: int, span: tuple[float, float], on_progress: OnProgress) -> None:
        self._what, self._num_bytes, self._span, self._on_progress = what, max(num_bytes, 1), span, on_progress
        self._started_at = self._reported_at = time.monotonic()
        self._done = 0

    def add(self, num_bytes: int) -> None:
        """Of one thread. At most one report every PAUSE_S."""
        self._done += num_bytes
        now, (begin, end) = time.monotonic(), self._span
        if now - self._reported_at >= PAUSE_S:
            self._reported_at = now
            left = time_left((now - self._started_at) / self._done * (self._num_bytes - self._done))
            done = f"{self._done / 2**30:.1f} of {self._num_bytes / 2**30:.1f} GiB"
            self._on_progress(f"{self._what}, {done}, {left}", begin + (end - begin) * self._done / self._num_bytes)


def time_left(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s left"
    return f"{seconds / MINUTE:.0f} min left" if seconds < HOUR else f"{seconds / HOUR:.1f} h left"
