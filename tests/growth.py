"""How the time of some work grows with its size."""

from collections.abc import Callable

TRIES = 4  # a busy machine may slow down any one of them


def is_linear(seconds: Callable[[int], float], size: int, factor: int = 4) -> bool:
    """True if `factor` times the size takes less than twice that times as long, in the best of some tries.

    `seconds`: the processor time of work of a size. Quadratic work takes factor² times as long.
    """
    return any(seconds(size * factor) < 2 * factor * max(seconds(size), 0.002) for _ in range(TRIES))
