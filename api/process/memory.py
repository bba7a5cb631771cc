"""The process's memory after large requests: fewer garbage collections, and freed memory returned to the system."""

import ctypes
import gc
from typing import Any

import gevent
from flask import Flask, g

from api.process.offload import in_native_thread

LARGE_BYTES = 2**20
# gc.set_threshold: new objects before a collection of the youngest, and collections of one generation before the next
# older one is collected. With Python's 700, 10 and 10 a single request with 65,536 lists triggers a full collection,
# which stops every stream.
THRESHOLDS = (20_000, 20, 100)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h; glibc only, and optional


def collect_rarely() -> None:
    """Exempt all present objects from garbage collection, and collect later ones less often than Python does.

    Of 146,000 that imports leave, 1,400 are garbage: not worth the sixth of a second in which a collection finds them.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def return_large_blocks() -> None:
    """Have malloc return large blocks and the ends of heaps to the system as soon as they are freed.

    By default glibc raises both thresholds with every large block that is freed, up to 32 and 64 MiB, for each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)


class SpareMemory:
    """Returns free memory inside heaps to the system soon after requests with large bodies have ended."""

    def __init__(self) -> None:
        self._is_due = False
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def install(self, app: Flask) -> None:
        @app.teardown_request
        def note(_: BaseException | None) -> None:
            self._is_due = self._is_due or g.get("num_body_bytes", 0) >= LARGE_BYTES

    def give_back(self) -> None:
        """Trim once for all large requests that have ended since the last call. Call it about once a second."""
        if self._is_due and self._trim is not None:
            self._is_due = False
            gevent.spawn(in_native_thread, self._trim, 0)  # the caller does not wait for a free thread
