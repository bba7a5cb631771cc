"""The GPU process: pulls jobs in order and generates tokens for many of them at once."""

import ctypes
import os

# How long OpenMP's threads spin for the next piece of work before they sleep, in turns (about 50 ms): longer than the
# pause between two steps, so that a step does not begin with waking them. Read once, when torch is loaded after this.
os.environ.setdefault("GOMP_SPINCOUNT", "3000000")

# One heap for all threads (malloc.h; glibc only, all works as well without it): a thread's own ends at 64 MiB, and what
# lies beyond goes back to the system with every tensor that is freed.
M_ARENA_MAX = -8
mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
if mallopt is not None:
    mallopt(M_ARENA_MAX, 1)
