"""Tells the parent process when work that may hang begins and ends; the parent counts the seconds in between."""

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class HangWatch:
    """`on_orphaned` is called when the parent is dead: it would start no successor."""

    def __init__(self, fd: int, on_orphaned: Callable[[], None]) -> None:
        self._fd = fd
        self._on_orphaned = on_orphaned

    def run(self, work: Callable[[], T]) -> T:
        """Do work in which a request may hang."""
        self._write(b"begin\n")
        result = work()
        self._write(b"end\n")
        return result

    def _write(self, word: bytes) -> None:
        try:
            os.write(self._fd, word)
        except BrokenPipeError:
            self._on_orphaned()
