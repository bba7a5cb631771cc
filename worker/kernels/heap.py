"""glibc's malloc for tensors. Other C libraries have no mallopt, and nothing is set there."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28  # at the end of the heap
LARGEST_KEPT = 2**25  # the most that M_MMAP_THRESHOLD may be
LARGEST_HELD = 2**20  # bytes of a tensor in the heap while memory is returned; larger ones are mapped one by one


def keep_freed_memory() -> None:
    """Keep what one step frees for the next one; else glibc may return it, and each step begins with page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """While active, what is freed goes back to the system at once, else the heap grows to all that was ever in use.

    For the time of loading, which takes more memory in passing than it keeps.
    """
    library = ctypes.CDLL(None)
    mallopt, trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_HELD)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        trim(0)
