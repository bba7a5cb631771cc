"""Bounds on code that is not ours, a model's chat template: time and memory, within this process.

A template is compiled to Python and never waits, so nothing else of this process would run while it loops. The alarm
is heard between two of its bytecodes.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STATM = Path("/proc/self/statm")


class TooSlow(Exception):
    """The time is up."""


def _ring(_: int, __: FrameType | None) -> None:
    raise TooSlow


@contextmanager
def bounded(seconds: float, num_bytes: int) -> Iterator[None]:
    """Raises TooSlow or MemoryError in the block. Only the main thread can be bounded, which is where requests run."""
    try:
        before = signal.signal(signal.SIGALRM, _ring)
    except ValueError:
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        _limit_memory(num_bytes, limits)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def _limit_memory(num_bytes: int, limits: tuple[int, int]) -> None:
    if not STATM.exists():
        return
    used = int(STATM.read_text().split()[0]) * resource.getpagesize()
    most = used + num_bytes
    if limits[0] == resource.RLIM_INFINITY or most < limits[0]:
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
