"""Tells the parent process our fences, and when work that may hang begins and ends; it counts the seconds between."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.errors import OmniError

T = TypeVar("T")


class HangWatch:
    """`on_orphaned` is called when the parent is dead: it would start no successor."""

    def __init__(self, fd: int) -> None:
        self.on_orphaned: Callable[[], None] = lambda: None
        self._fd = fd

    def tell_fences(self, fences: Sequence[int]) -> None:
        """Under which this process may write; its successor gets them."""
        self._write(f"fences {','.join(map(str, fences))}\n".encode())

    def tell_loading(self, queue: str) -> None:
        """A model is being loaded beside others from now on; "": none any more."""
        self._write(f"load {queue}".rstrip().encode() + b"\n")

    def run(self, work: Callable[[], T], fence: int) -> T:
        """Do work in which a request may hang, or end this process: one of those that run under this fence."""
        self._write(b"begin %d\n" % fence)
        try:
            result = work()
        except OmniError:
            self._write(b"end\n")  # a request that is refused; any other error ends this process within its step
            raise
        self._write(b"end\n")
        return result

    def _write(self, word: bytes) -> None:
        try:
            os.write(self._fd, word)
        except BrokenPipeError:
            self.on_orphaned()
