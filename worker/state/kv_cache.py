"""The paged KV cache: keys and values of all layers in blocks, allocated to sequences and shared by prefix."""

import math
import mmap
from dataclasses import dataclass

import torch

from worker.state.block_pool import BlockPool, chain_hash, chain_root
from worker.state.sequence import Sequence

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Heads and dimensions of one layer's keys and values."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)


def pool_of(
    num_heads: int, places: tuple[int, int], dim: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Zeros [heads, blocks, block_size, dim]. Never uninitialized: masked positions are multiplied too, NaN included.

    On a CPU the pages come untouched from the kernel, so memory is used only as blocks are written; huge pages are
    avoided because clearing one stalls a step. On a GPU a block's heads are adjacent, [blocks, heads, block_size, dim]
    in memory: a program of the attention kernel reads one head of a block in a row.
    """
    if device.type != "cpu":
        num_blocks, block_size = places
        return torch.zeros(num_blocks, num_heads, block_size, dim, dtype=dtype, device=device).transpose(0, 1)
    pages = mmap.mmap(-1, num_heads * math.prod(places) * dim * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    return torch.frombuffer(pages, dtype=dtype).view(num_heads, *places, dim)


def scales_of(shape: LayerShape, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Ones for an fp8 cache, else None."""
    return torch.ones(shape.num_kv_heads, dtype=torch.float32, device=device) if dtype == FP8 else None


def as_indexed(pool: torch.Tensor) -> torch.Tensor:
    """The same memory in a dtype that torch can index: fp8 as bytes, whose zero is the number zero."""
    return pool.view(torch.uint8) if pool.dtype == FP8 else pool


class KVCache:
    """Blocks of `block_size` tokens. `keys[i]` is [kv_heads, num_blocks, block_size, key_dim], and so are the values.

    Heads come first, so that gathered blocks are ready for a batched matrix product. The layout of a head within a
    block is the runner's choice (worker/kernels has its own). A block has the same id in all layers. Sequences hold
    their block ids; only this class changes them.

    With the dtype torch.float8_e4m3fn, a key is the stored number times its head's scale, `key_scales[i]` [kv_heads]
    in float32; with others the scales are None.
    """

    def __init__(
        self,
        shapes: list[LayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        shares_prefixes: bool = True,
    ) -> None:
        self.shapes = shapes
        self.block_size = block_size
        self.shares_prefixes = shares_prefixes
        self.pool = BlockPool(num_blocks)
        places = (num_blocks, block_size)
        self.keys = [pool_of(shape.num_kv_heads, places, shape.key_dim, dtype, device) for shape in shapes]
        self.values = [pool_of(shape.num_kv_heads, places, shape.value_dim, dtype, device) for shape in shapes]
        self.key_scales = [scales_of(shape, dtype, device) for shape in shapes]
        self.value_scales = [scales_of(shape, dtype, device) for shape in shapes]

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_missing(self, sequence: Sequence) -> int:
        """Free blocks that admitting the sequence would take; blocks shared with running sequences are not counted."""
        shared = self._find_prefix(sequence)
        return self.num_blocks_for(sequence.num_tokens) - len(shared) + self.pool.num_unused(shared)

    def allocate(self, sequence: Sequence) -> int | None:
        """Give the sequence blocks for all its tokens; returns the number of tokens found in the cache.

        None if there is no room. At least one token is left to compute.
        """
        if self.num_missing(sequence) > self.pool.num_free:
            return None
        shared = self._find_prefix(sequence)
        num_new = self.num_blocks_for(sequence.num_tokens) - len(shared)
        self.pool.take(shared)
        sequence.block_ids = shared + self.pool.allocate(num_new)
        return len(shared) * self.block_size

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Extend the sequence's blocks to its first `num_tokens` tokens; False if too few are free."""
        num_missing = self.num_blocks_for(num_tokens) - len(sequence.block_ids)
        if num_missing > self.pool.num_free:
            return False
        if num_missing > 0:
            sequence.block_ids += self.pool.allocate(num_missing)
        return True

    def cache_blocks(self, sequence: Sequence, start: int, stop: int) -> None:
        """Share the blocks that the computed tokens from `start` to `stop` have made full."""
        if not self.shares_prefixes:
            return
        stop = min(stop, sequence.num_computed)  # less after a preemption
        first, last = start // self.block_size, stop // self.block_size
        if first < last:
            hashes = self._hashes(sequence, last)
            for at in range(first, last):
                self.pool.cache(sequence.block_ids[at], hashes[at])

    def free(self, sequence: Sequence) -> None:
        """Take the sequence's blocks; their content stays cached until they are allocated again."""
        self.pool.free(sequence.block_ids)
        sequence.block_ids = []

    def zero(self, sequence: Sequence) -> None:
        """Clear the blocks of a failed sequence: NaN in a block would reach its next user through the mask."""
        own = self.pool.exclusive(sequence.block_ids)
        self.pool.evict(own)
        self.wipe(own)

    def wipe(self, block_ids: list[int]) -> None:
        """Set the blocks' keys and values to zero."""
        for pool in self.keys + self.values:
            as_indexed(pool)[:, torch.tensor(block_ids, dtype=torch.long, device=pool.device)] = 0

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        if not self.shares_prefixes:
            return []
        num_full = (sequence.num_tokens - 1) // self.block_size
        return self.pool.find(self._hashes(sequence, num_full))

    def _hashes(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """Hashes of the first `num_blocks` full blocks; those not yet known are added to the sequence."""
        hashes = sequence.block_hashes
        size = self.block_size
        while len(hashes) < num_blocks:
            at = len(hashes)
            previous = hashes[-1] if hashes else chain_root(sequence.cache_salt)
            hashes.append(chain_hash(previous, sequence.token_ids[at * size : (at + 1) * size]))
        return hashes[:num_blocks]
