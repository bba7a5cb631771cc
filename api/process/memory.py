"""What large requests do to this process' memory: how often it is searched for garbage, and when it is given back."""

import ctypes
import gc
from typing import Any

import gevent
from flask import Flask, g

from api.process.offload import in_native_thread

LARGE_BYTES = 2**20
# How many objects there are more of before the youngest, those that outlived 20 such searches, and all are searched.
# Python's own 700, 10 and 10 let one request of 65,536 lists begin a search of all, which keeps every stream waiting.
THRESHOLDS = (20_000, 20, 100)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h; glibc only, all works as well without it


def search_seldom() -> None:
    """What is there now is never searched for garbage again; what comes later less often than Python would."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def give_large_blocks_back() -> None:
    """What is freed at once: large blocks, and the ends of heaps. glibc alone raises both bounds with every large block
    that is freed, up to 32 and 64 MiB, and each thread has a heap of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)


class SpareMemory:
    """What lies free in the middle of heaps goes back to the system soon after large bodies are done."""

    def __init__(self) -> None:
        self._is_due = False
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def install(self, app: Flask) -> None:
        @app.teardown_request
        def note(_: BaseException | None) -> None:
            self._is_due = self._is_due or g.get("num_body_bytes", 0) >= LARGE_BYTES

    def give_back(self) -> None:
        """Call it every second or so: once for all that have ended since."""
        if self._is_due and self._trim is not None:
            self._is_due = False
            gevent.spawn(in_native_thread, self._trim, 0)  # whoever calls does not wait for a free thread
