"""A poll of zero seconds that gives nobody else a turn.

redis-py asks each connection, before each command, whether anything is left on it. gevent's poll answers by way of its
loop, so a request lost its turn at each of its commands: 64 that came together moved on in step, and the last of them
was in line before the first could be read by a worker.
"""

import select
from typing import Any

from gevent.monkey import get_original
from gevent.select import poll as GreenPoll

KernelPoll = get_original("select", "poll")


class QuickPoll(GreenPoll):  # type: ignore[misc]
    """gevent's poll, but the kernel itself is asked where nobody would wait."""

    def __init__(self) -> None:
        super().__init__()
        self._kernel = KernelPoll()

    def register(self, fd: Any, *eventmask: int) -> None:
        super().register(fd, *eventmask)
        self._kernel.register(fd, *eventmask)

    def modify(self, fd: Any, eventmask: int) -> None:
        super().modify(fd, eventmask)
        self._kernel.register(fd, eventmask)

    def unregister(self, fd: Any) -> None:
        super().unregister(fd)
        self._kernel.unregister(fd)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """`timeout` in milliseconds; None waits for ever."""
        ready: list[tuple[int, int]] = self._kernel.poll(0) if timeout == 0 else super().poll(timeout)
        return ready


def install() -> None:
    """Once gevent has patched the standard library."""
    select.poll = QuickPoll  # type: ignore[misc]
