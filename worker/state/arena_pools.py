"""Pools of keys and values in an engine's arena on a GPU."""

from collections.abc import Sequence as Seq

import torch

from worker.gpu_memory.arena import Arena


class ArenaPools:
    """As HostMemory. In memory a block's heads are adjacent, so that its first blocks are first bytes."""

    def __init__(self, arena: Arena, num_blocks: int) -> None:
        """`num_blocks`: that each pool begins with, of those that it has addresses for."""
        self.is_elastic = arena.is_elastic
        self._arena = arena
        self._num_blocks = num_blocks

    def take(self, shape: Seq[int], dtype: torch.dtype) -> torch.Tensor:
        """Zeros [heads, blocks, ...]. Raises torch.OutOfMemoryError."""
        heads, blocks, *rest = shape
        first = self._num_blocks * heads * dtype.itemsize
        for size in rest:
            first *= size
        return self._arena.take((blocks, heads, *rest), dtype, first).transpose(0, 1)

    def fit(self, pool: torch.Tensor, num_blocks: int) -> None:
        """Have memory for its first blocks. Raises torch.OutOfMemoryError."""
        self._arena.fit(pool, num_blocks * pool.transpose(0, 1)[:1].nbytes)
