"""A time limit for runs: one that exceeds it ends with a description of the state it was waiting in."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

LEAVE_S = 150.0  # for what cannot be broken off: threads that wait for a process


class TooLong(Exception):
    """The run exceeded its time; the message describes what it was doing."""


@contextmanager
def bounded(seconds: float, doing: Callable[[], str], leave_s: float = LEAVE_S) -> Iterator[None]:
    """Raises TooLong within the main thread after `seconds`; ends the process if that does not end the work."""

    def expire(*_: object) -> None:
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, leave_s)
        raise TooLong(f"it had {seconds:.0f} s and was {doing()}")

    def give_up(*_: object) -> None:
        print(f"gave up {leave_s:.0f} s after the {seconds:.0f} s were over: {doing()}", file=sys.stderr, flush=True)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(1)

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
