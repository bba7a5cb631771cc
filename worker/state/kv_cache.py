"""The paged KV cache: keys and values of all layers, handed out to sequences in blocks, shared by prefix."""

import math
import mmap
from dataclasses import dataclass

import torch

from worker.state.block_pool import BlockPool, chain_hash, chain_root
from worker.state.sequence import Sequence


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of one token."""

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
    """Zeros, [heads, blocks, block_size, dim], and never garbage: what a mask hides is still multiplied, NaN and all.

    On a CPU from the kernel's untouched pages, so that memory is taken only as blocks are used. Not from huge ones: to
    clear one costs a step more than its faults do. On a GPU a token's heads lie together, as its kernels want them.
    """
    if device.type != "cpu":
        return torch.zeros(*places, num_heads, dim, dtype=dtype, device=device).permute(2, 0, 1, 3)
    pages = mmap.mmap(-1, num_heads * math.prod(places) * dim * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    return torch.frombuffer(pages, dtype=dtype).view(num_heads, *places, dim)


class KVCache:
    """Blocks of `block_size` tokens. `keys[i]` is [kv_heads, num_blocks, block_size, key_dim], and so are the values.

    Heads come first, so that what is gathered for a batch is ready for a batched matrix product; how a head's numbers
    lie within a block is up to the runner (worker/kernels has an order of its own). A block's number is the same in all
    layers. Sequences hold their block ids; only this class changes them.
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

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_missing(self, sequence: Sequence) -> int:
        """How many free blocks its tokens would take, beside those that others use."""
        shared = self._find_prefix(sequence)
        return self.num_blocks_for(len(sequence.token_ids)) - len(shared) + self.pool.num_unused(shared)

    def admit(self, sequence: Sequence) -> bool:
        """Give the sequence blocks for all its tokens, sharing what is known; False if there is no room.

        One token is left to compute.
        """
        if self.num_missing(sequence) > self.pool.num_free:
            return False
        shared = self._find_prefix(sequence)
        num_new = self.num_blocks_for(len(sequence.token_ids)) - len(shared)
        self.pool.take(shared)
        sequence.block_ids = shared + self.pool.allocate(num_new)
        sequence.num_computed = len(shared) * self.block_size
        return True

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for the first `num_tokens` of the sequence; False if none are free."""
        num_missing = self.num_blocks_for(num_tokens) - len(sequence.block_ids)
        if num_missing > self.pool.num_free:
            return False
        if num_missing > 0:
            sequence.block_ids += self.pool.allocate(num_missing)
        return True

    def remember(self, sequence: Sequence, num_before: int) -> None:
        """Let others share the blocks that filled up since `num_before` tokens were computed."""
        if not self.shares_prefixes:
            return
        first, last = num_before // self.block_size, sequence.num_computed // self.block_size
        if first < last:
            hashes = self._hashes(sequence, last)
            for at in range(first, last):
                self.pool.remember(sequence.block_ids[at], hashes[at])

    def release(self, sequence: Sequence) -> None:
        """Take the sequence's blocks back; their content stays known as long as there is room."""
        self.pool.release(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed = 0

    def scrub(self, sequence: Sequence) -> None:
        """Wipe what a sequence that went wrong wrote: NaN in a block would reach its next user through the mask."""
        own = self.pool.exclusive(sequence.block_ids)
        self.pool.forget(own)
        self.wipe(own)

    def wipe(self, block_ids: list[int]) -> None:
        for pool in self.keys + self.values:
            pool[:, torch.tensor(block_ids, dtype=torch.long, device=pool.device)] = 0

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        if not self.shares_prefixes:
            return []
        num_full = (len(sequence.token_ids) - 1) // self.block_size
        return self.pool.find(self._hashes(sequence, num_full))

    def _hashes(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """The chain of the first `num_blocks` full blocks, grown on the sequence as needed."""
        hashes = sequence.block_hashes
        size = self.block_size
        while len(hashes) < num_blocks:
            at = len(hashes)
            previous = hashes[-1] if hashes else chain_root(sequence.cache_salt)
            hashes.append(chain_hash(previous, sequence.token_ids[at * size : (at + 1) * size]))
        return hashes[:num_blocks]
