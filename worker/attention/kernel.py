"""Paged attention by our own GPU kernel, for ragged steps and for recorded ones."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from worker.attention.groups import token_slots
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.device import upload
from worker.kernels.gpu.cache_writes import write
from worker.kernels.gpu.paged_attention import Pages, Tiles, attend, tile_queries
from worker.kernels.gpu.split_keys import choose_splits, num_multiprocessors, splits_to_fill
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence


@dataclass(frozen=True, slots=True)
class StepTensors:
    """A step of T tokens of N sequences, on the device. In a recorded step they are buffers at fixed addresses."""

    slots: torch.Tensor  # [T] int64: where each token's keys and values are written
    query_starts: torch.Tensor  # [N + 1] int32
    num_keys: torch.Tensor  # [N] int32: keys of each sequence, this step's included
    block_table: torch.Tensor  # [N, W] int32
    tile_rows: torch.Tensor  # [tiles] int32: sequence of each tile of a prompt chunk, -1: none
    tile_starts: torch.Tensor  # [tiles] int32: first query of the tile, counted in its sequence
    tile_queries: int = 1  # queries of a tile, at most


class KernelAttention(PagedAttention):
    """PagedAttention by at most two launches of the kernel, one for few queries a sequence and one for tiles of many.

    The first covers the first `num_decodes` sequences and skips those with more than `max_queries` queries; tiles
    cover the others. Both share the keys of a sequence among programs where there are too few to fill the GPU.
    """

    def __init__(
        self,
        kv_cache: KVCache,
        tensors: StepTensors,
        max_queries: int,
        num_decodes: int | None = None,
        max_keys: int | None = None,
    ) -> None:
        """`max_keys`: of a sequence in this step, or ever if it is recorded; None: as many as the block table holds."""
        self.kv_cache = kv_cache
        self.slots = tensors.slots
        self.tensors = tensors
        self.max_queries = max_queries
        self.num_decodes = len(tensors.num_keys) if num_decodes is None else num_decodes
        self.max_keys = max_keys or tensors.block_table.shape[1] * kv_cache.block_size

    @classmethod
    def of_rows(cls, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> "KernelAttention":
        """For a ragged step, whose rows are in kernel order: single tokens first."""
        return RaggedKernelAttention(kv_cache, rows, device)

    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        cache = self.kv_cache
        scales = cache.key_scales[layer_idx], cache.value_scales[layer_idx]
        write(adjacent(key), adjacent(value), self.slots, cache.keys[layer_idx], cache.values[layer_idx], scales)

    def attend(self, layer_idx: int, query: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        """`query` is [T, heads, key_dim]; returns [T, heads, value_dim], undefined for tokens of no sequence."""
        value_dim = self.kv_cache.shapes[layer_idx].value_dim
        query, output = adjacent(query), query.new_empty(*query.shape[:2], value_dim)
        few = Tiles(self.tensors.query_starts, self.num_decodes, self.max_queries)
        for tiles in (few, self._tiles(query.shape[1] // self.kv_cache.shapes[layer_idx].num_kv_heads)):
            if tiles.count:
                self._launch(layer_idx, query, tiles, spec, output)
        return output

    def _tiles(self, num_shared: int) -> Tiles:
        """The tiles of prompt chunks, for a layer with so many heads to a KV head."""
        own = self.tensors
        return Tiles(own.query_starts, len(own.tile_rows), own.tile_queries, own.tile_rows, own.tile_starts)

    def _launch(
        self, layer_idx: int, query: torch.Tensor, tiles: Tiles, spec: AttentionSpec, output: torch.Tensor
    ) -> None:
        cache, kv_heads = self.kv_cache, self.kv_cache.shapes[layer_idx].num_kv_heads
        pages = Pages(
            cache.keys[layer_idx],
            cache.values[layer_idx],
            cache.key_scales[layer_idx],
            cache.value_scales[layer_idx],
            self.tensors.block_table,
            self.tensors.num_keys,
        )
        max_keys = self.max_keys if spec.window is None else min(self.max_keys, spec.window + tiles.num_queries)
        is_uneven, num_sms = tiles.rows is None, num_multiprocessors(query.device)
        attend(
            query,
            pages,
            tiles,
            output,
            scale=spec.scale,
            window=spec.window,
            softcap=spec.softcap,
            sinks=spec.sinks,
            num_splits=choose_splits(tiles.count, kv_heads, max_keys, num_sms, is_uneven=is_uneven),
            usual_splits=splits_to_fill(tiles.count, kv_heads, num_sms),
        )


class RaggedKernelAttention(KernelAttention):
    """KernelAttention of a step that is not recorded. Its tiles are as large as a layer's shape wants them."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        tensors, max_keys = tensors_of(kv_cache, rows, device)
        num_decodes = sum(row.num_inputs == 1 for row in rows)
        super().__init__(kv_cache, tensors, 1, num_decodes, max_keys)
        self._chunks = [(at, row.num_inputs) for at, row in enumerate(rows) if row.num_inputs > 1]
        self._by_shared: dict[int, Tiles] = {}

    def _tiles(self, num_shared: int) -> Tiles:
        if num_shared not in self._by_shared:
            longest = max((num_queries for _, num_queries in self._chunks), default=0)
            num_queries = tile_queries(num_shared, self.kv_cache.keys[0].dtype, longest)
            table = tile_table(self._chunks, num_queries)
            rows, starts = upload(torch.tensor(table, dtype=torch.int32).view(-1, 2).T.contiguous(), self.slots.device)
            self._by_shared[num_shared] = Tiles(self.tensors.query_starts, len(table), num_queries, rows, starts)
        return self._by_shared[num_shared]


def tensors_of(kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> tuple[StepTensors, int]:
    """Of a step that is not recorded, without tiles; and the most keys that a sequence has."""
    width = max(len(row.sequence.block_ids) for row in rows)
    table = [row.sequence.block_ids + [0] * (width - len(row.sequence.block_ids)) for row in rows]
    starts, num_keys = [0], [row.start + row.num_inputs for row in rows]
    for row in rows:
        starts.append(starts[-1] + row.num_inputs)
    none = torch.empty(0, dtype=torch.int32)
    tensors = StepTensors(
        upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device),
        upload(torch.tensor(starts, dtype=torch.int32), device),
        upload(torch.tensor(num_keys, dtype=torch.int32), device),
        upload(torch.tensor(table, dtype=torch.int32), device),
        none,
        none,
    )
    return tensors, max(num_keys)


def adjacent(numbers: torch.Tensor) -> torch.Tensor:
    """The same, adjacent in the last dimension as the kernels need it; a copy only where it is not."""
    return numbers if numbers.stride(-1) == 1 else numbers.contiguous()


def tile_table(chunks: Seq[tuple[int, int]], num_queries: int) -> list[tuple[int, int]]:
    """(sequence, first query) of each tile of the chunks (sequence, queries); last ones first, as they take longest."""
    tiles = [(row, start) for row, total in chunks for start in range(0, total, num_queries)]
    return tiles[::-1]
