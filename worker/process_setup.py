"""Settings of this process that must be made before torch is loaded."""

import ctypes

from common.environment import set_default

# How long OpenMP's threads spin for more work before they sleep, in iterations (about 50 ms): longer than the pause
# between two steps, so that a step does not begin by waking them. Read once, when torch is loaded.
SPIN_COUNT = "3000000"

# One heap for all threads (malloc.h; glibc only): a thread's own heap ends at 64 MiB, and larger blocks return to the
# system with every tensor that is freed.
M_ARENA_MAX = -8


def prepare_process() -> None:
    """Set up OpenMP and malloc for inference. Has no effect on OpenMP once torch is loaded."""
    set_default("GOMP_SPINCOUNT", SPIN_COUNT)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
