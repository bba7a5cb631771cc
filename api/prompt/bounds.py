"""Time and memory limits for code that comes with a model, its chat template, within this process.

A template is compiled to Python and never waits. It is interrupted between two bytecodes: in the main thread by a
signal, in any other one by an exception that a watching thread sets there.
"""

import ctypes
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from gevent.monkey import get_original

STATM = Path("/proc/self/statm")

allocate_lock, get_ident, start_new_thread = get_original(
    "_thread", ["allocate_lock", "get_ident", "start_new_thread"]
)  # unpatched: the watching thread is not one of gevent's


class TooSlow(Exception):
    """The time limit was reached."""


def _interrupt(_: int, __: FrameType | None) -> None:
    raise TooSlow


@contextmanager
def bounded(seconds: float, num_bytes: int) -> Iterator[None]:
    """Raises TooSlow or MemoryError in the block."""
    with _memory().limited(num_bytes):
        try:
            before = signal.signal(signal.SIGALRM, _interrupt)
        except ValueError:  # signals reach the main thread only
            with _watched(seconds):
                yield
            return
        rest = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *rest)  # of whoever had set one, such as a test's own limit


@contextmanager
def _watched(seconds: float) -> Iterator[None]:
    """Raises TooSlow in this thread when the time is up, and never after the block."""
    thread, is_over, has_looked = get_ident(), allocate_lock(), allocate_lock()
    is_over.acquire()
    has_looked.acquire()

    def watch() -> None:
        if not is_over.acquire(timeout=seconds):
            _set_in(thread, TooSlow)
        has_looked.release()

    start_new_thread(watch, ())
    try:
        yield
    finally:
        is_over.release()
        has_looked.acquire()
        _set_in(thread, None)


def _set_in(thread: int, error: type[BaseException] | None) -> None:
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


class MemoryLimit:
    """The process's memory limit, shared by all threads; lowered while at least one of them is bounded."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._num_bounded = 0
        self._own = resource.getrlimit(resource.RLIMIT_AS)

    @contextmanager
    def limited(self, num_bytes: int) -> Iterator[None]:
        """Limit to what is used now plus `num_bytes`. Of several overlapping limits the newest holds."""
        with self._lock:
            self._num_bounded += 1
            if self._num_bounded == 1:
                self._own = resource.getrlimit(resource.RLIMIT_AS)
            self._lower(num_bytes)
        try:
            yield
        finally:
            with self._lock:
                self._num_bounded -= 1
                if not self._num_bounded:
                    resource.setrlimit(resource.RLIMIT_AS, self._own)

    def _lower(self, num_bytes: int) -> None:
        if not STATM.exists():
            return
        most = int(STATM.read_text().split()[0]) * resource.getpagesize() + num_bytes
        if self._own[0] == resource.RLIM_INFINITY or most < self._own[0]:
            resource.setrlimit(resource.RLIMIT_AS, (most, self._own[1]))


@cache
def _memory() -> MemoryLimit:
    """One per process."""
    return MemoryLimit()
