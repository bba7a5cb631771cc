"""The paged KV cache: keys and values of all layers in blocks, allocated to sequences and shared by prefix."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from worker.gpu_memory.arena import Arena
from worker.state.arena_pools import ArenaPools
from worker.state.block_pool import BlockPool, Moves, chain_hash, chain_root
from worker.state.host_memory import HostMemory, private_pages, whole_pages
from worker.state.kept_blocks import KeptBlocks, table_bytes
from worker.state.sequence import Sequence

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Heads and dimensions of one layer's keys and values. A layer whose keys are all that it keeps has values of 0."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    value_dtype: torch.dtype | None = None  # None: as the keys

    def dtypes(self, dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        """Of keys and values, in a cache of this dtype."""
        return dtype, self.value_dtype or dtype

    def token_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of a token, in a cache of this dtype."""
        dims = self.key_dim, self.value_dim
        sizes = zip(dims, self.dtypes(dtype), strict=True)
        return self.num_kv_heads * sum(dim * each.itemsize for dim, each in sizes)


def pool_of(
    num_heads: int,
    places: tuple[int, int],
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    memory: HostMemory | ArenaPools | None = None,
) -> torch.Tensor:
    """Zeros [heads, blocks, block_size, dim]. Never uninitialized: masked positions are multiplied too, NaN included.

    They lie in `memory` if there is one. On a GPU a block's heads are adjacent, [blocks, heads, block_size, dim] in
    memory: a program of the attention kernel reads one head of a block in a row.
    """
    if memory is not None and dim:
        return memory.take((num_heads, *places, dim), dtype)
    num_blocks, block_size = places
    return torch.zeros(num_blocks, num_heads, block_size, dim, dtype=dtype, device=device).transpose(0, 1)


def pool_bytes(shapes: list[LayerShape], num_slots: int, dtype: torch.dtype) -> int:
    """Of all pools on a CPU."""
    return sum(
        whole_pages(shape.num_kv_heads * dim * num_slots * own.itemsize)
        for shape in shapes
        for dim, own in zip((shape.key_dim, shape.value_dim), shape.dtypes(dtype), strict=True)
    )


def scales_of(shape: LayerShape, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Ones for an fp8 cache, else None."""
    return torch.ones(shape.num_kv_heads, dtype=torch.float32, device=device) if dtype == FP8 else None


def as_indexed(pool: torch.Tensor) -> torch.Tensor:
    """The same memory in a dtype that torch can index: fp8 as bytes, whose zero is the number zero."""
    return pool.view(torch.uint8) if pool.dtype == FP8 else pool


class KVCache:
    """Blocks of `block_size` tokens. `keys[i]` is [kv_heads, num_blocks, block_size, key_dim], and so are the values.

    What a layer keeps may be something else than keys and values: latents are keys, with no values or with index keys
    in their place (worker/attention/latent).

    Heads come first, so that gathered blocks are ready for a batched matrix product. The layout of a head within a
    block is the runner's choice (worker/kernels has its own). A block has the same id in all layers. Sequences hold
    their block ids; only this class changes them. The tensors have `capacity` blocks, of which the pool's first are in
    use: on a CPU the others take no memory.

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
        capacity: int = 0,
        kept: KeptBlocks | None = None,
        arena: Arena | None = None,
    ) -> None:
        """`capacity`: the most blocks that it may ever have. `kept`: with pages for so many, which outlive us.

        `arena`: whose pools it has. Raises torch.OutOfMemoryError.
        """
        self.shapes = shapes
        self.block_size = block_size
        self.shares_prefixes = shares_prefixes
        self.capacity = max(num_blocks, capacity)
        self.kept = kept
        self.arena = arena
        self._memory: HostMemory | ArenaPools | None = None
        if arena is not None:
            self._memory = ArenaPools(arena, num_blocks if arena.is_elastic else self.capacity)
        elif kept is not None:
            self._memory = HostMemory(kept.pages, table_bytes(self.capacity), is_shared=True)
        elif device.type == "cpu" and shapes:
            self._memory = HostMemory(private_pages(pool_bytes(shapes, self.capacity * block_size, dtype)))
        places = self.capacity, block_size
        room = device, self._memory
        dtypes = [shape.dtypes(dtype) for shape in shapes]
        self.keys = [
            pool_of(shape.num_kv_heads, places, shape.key_dim, own, *room)
            for shape, (own, _) in zip(shapes, dtypes, strict=True)
        ]
        self.values = [
            pool_of(shape.num_kv_heads, places, shape.value_dim, own, *room)
            for shape, (_, own) in zip(shapes, dtypes, strict=True)
        ]
        self._is_unproved = False  # blocks were found since the last commit
        if kept is None:
            self.pool = BlockPool(num_blocks)
        else:
            self.pool = BlockPool(max(num_blocks, kept.num_known), kept)
            self.resize(num_blocks, [])
        scales = [[scales_of(shape, own, device) for own in shape.dtypes(dtype)] for shape in shapes]
        self.key_scales, self.value_scales = [keys for keys, _ in scales], [values for _, values in scales]

    @property
    def is_elastic(self) -> bool:
        """It can have more or fewer blocks: their memory comes and goes, or it has no tensors."""
        return not self.shapes or (self._memory is not None and self._memory.is_elastic)

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
        self._is_unproved = self._is_unproved or bool(shared)
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

    def cache_blocks(self, sequence: Sequence, start: int, stop: int, *, is_final: bool = False) -> None:
        """Share the blocks that the computed tokens from `start` to `stop` have made full.

        `is_final`: the step is committed, so that a successor of this process may have them too.
        """
        if not self.shares_prefixes:
            return
        if is_final and self._is_unproved and self.kept is not None:
            self.kept.proved()
            self._is_unproved = False
        stop = min(stop, sequence.num_computed)  # less after a preemption
        first, last = start // self.block_size, stop // self.block_size
        if first < last:
            hashes = self._hashes(sequence, last)
            share = self.pool.keep if is_final and not sequence.images else self.pool.cache
            for at in range(first, last):
                share(sequence.block_ids[at], hashes[at])

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

    def drop(self) -> None:
        """Nobody finds the blocks after this process."""
        if self.kept is not None:
            self.kept.drop()

    def resize(self, num_blocks: int, sequences: Iterable[Sequence]) -> Moves:
        """Have so many blocks, at most `capacity` and at least those in use; returns where blocks were moved.

        `sequences`: those that hold blocks. Raises torch.OutOfMemoryError on a GPU, and is then as it was.
        """
        if num_blocks > self.pool.num_blocks:
            self._grow(num_blocks)
        moves = self.pool.resize(num_blocks, self.move)
        for sequence in sequences if moves else ():
            sequence.block_ids[:] = [moves.get(block_id, block_id) for block_id in sequence.block_ids]
        self.give_back(num_blocks)
        return moves

    def _grow(self, num_blocks: int) -> None:
        try:
            self.give_back(num_blocks)
        except torch.OutOfMemoryError:
            self.give_back(self.pool.num_blocks)
            raise

    def move(self, moves: Moves) -> None:
        """Copy blocks to places that are not among them."""
        for pool in self.keys + self.values if moves else ():
            old, new = torch.tensor(list(moves.items()), dtype=torch.long, device=pool.device).unbind(1)
            as_indexed(pool)[:, new] = as_indexed(pool)[:, old]

    def give_back(self, num_blocks: int) -> None:
        """Have memory for the first blocks only. Raises torch.OutOfMemoryError on a GPU."""
        if self._memory is not None and self._memory.is_elastic:
            for pool in self.keys + self.values:
                self._memory.fit(pool, num_blocks)

    def scratch(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """float32 of no defined content, which leaves the device with the pools."""
        if self.arena is not None:
            return self.arena.take(shape, torch.float32)
        return torch.empty(shape, dtype=torch.float32, device=device)

    def forget(self) -> None:
        """Nobody finds a block any more: the content of all is lost."""
        self.pool.evict(range(self.pool.num_blocks))

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
