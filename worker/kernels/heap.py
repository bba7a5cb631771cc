"""How glibc's malloc treats the memory of tensors. Other C libraries have no mallopt, and nothing is set there."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h
KEPT_BYTES = 2**28  # at the end of the heap
LARGEST_KEPT = 2**25  # the most that M_MMAP_THRESHOLD may be


def share_one_heap() -> None:
    """One heap for all threads. Call it before threads are started.

    A thread's own heap ends at 64 MiB: larger tensors would return to the system as soon as they are freed.
    """
    set_option(M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Keep what one step frees for the next one; else glibc may return it, and each step begins with page faults."""
    set_option(M_MMAP_THRESHOLD, LARGEST_KEPT)
    set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


def set_option(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
