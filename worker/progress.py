"""Progress of a worker's start: the current stage, and the share that is done (0 to 1)."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

OnProgress = Callable[[str, float], None]

WEIGHTS, KERNELS, RECORDING, FIRST_STEP, READY = 0.05, 0.80, 0.85, 0.98, 1.0  # where each stage begins
PAUSE_S = 1.0  # at least, between two reports of one stage


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
