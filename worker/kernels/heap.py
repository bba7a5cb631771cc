"""glibc's malloc for tensors. Other C libraries have no mallopt, and nothing is set there."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28  # at the end of the heap
LARGEST_KEPT = 2**25  # the most that M_MMAP_THRESHOLD may be


def keep_freed_memory() -> None:
    """Keep what one step frees for the next one; else glibc may return it, and each step begins with page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
