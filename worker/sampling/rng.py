"""Random numbers as a hash of (seed, choice, position).

A sequence draws the same numbers when it is preempted, batched differently, or continued by another worker.
"""

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from worker.state.sequence import Sequence

UInt64s = NDArray[np.uint64]


def draws_of(sequences: Seq[Sequence], positions: Seq[int]) -> NDArray[np.float64]:
    """The number of each sequence's next sample; `positions` [S]: number of completion tokens before it."""
    return uniform(
        np.array([sequence.sampling.seed & (2**64 - 1) for sequence in sequences], dtype=np.uint64),
        np.array([sequence.index for sequence in sequences], dtype=np.uint64),
        np.array(positions, dtype=np.uint64),
    )


def uniform(seeds: UInt64s, choices: UInt64s, positions: UInt64s) -> NDArray[np.float64]:
    """One number in (0, 1) per row."""
    with np.errstate(over="ignore"):
        bits = mix(mix(mix(seeds) ^ choices) ^ positions)
    return (np.right_shift(bits, np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def mix(bits: UInt64s) -> UInt64s:
    """SplitMix64's step and finalizer: every bit of the input flips each bit of the output half the time."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ np.right_shift(bits, np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ np.right_shift(bits, np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64s = bits ^ np.right_shift(bits, np.uint64(31))
    return mixed
