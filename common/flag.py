"""A flag that a signal handler may set.

threading.Event deadlocks there: set() holds a lock, and a second signal runs the handler inside the first. The kernel
sends SIGTERM up to once for each thread of a parent that dies.
"""

from contextlib import suppress
from queue import Empty, SimpleQueue


class Flag:
    """As threading.Event, for one waiting thread. set() is safe in a handler: SimpleQueue.put() is reentrant."""

    def __init__(self) -> None:
        self._is_set = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._wakes.put(None)

    def clear(self) -> None:
        self._is_set = False  # first: a set() from now on is not lost
        with suppress(Empty):
            while True:
                self._wakes.get_nowait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """True as soon as the flag is set. False after the timeout, or earlier after a set() that was cleared."""
        if not self._is_set:
            with suppress(Empty):
                self._wakes.get(timeout=timeout_s)
        return self._is_set
