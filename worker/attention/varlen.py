"""Paged attention on a GPU: one kernel of torch for all sequences of a step, which reads keys through block tables."""

import inspect
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch.nn.attention import varlen

from worker.attention.groups import token_slots
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.device import check_device, upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Arguments of the kernel."""

    window: tuple[int, int]  # keys before and after the query; -1: all
    num_splits: int | None  # parts that it may cut the keys into; None: as many as fill the GPU


def kernel_options(max_queries: int, num_heads: int, num_kv_heads: int, window: int | None) -> KernelOptions:
    """The fastest options with which torch 2.13's kernel computes the right result.

    Cutting keys into parts fills a GPU when few sequences decode. With block tables, the parts are combined correctly
    only where the heads that share keys become the queries of one sequence (pytorch/pytorch#194167: otherwise every
    sequence's sum is written to the place of the first one). The kernel does that for single queries without a window;
    a single query attends to every key, so it needs none.
    """
    if max_queries == 1 and window is None and num_heads > num_kv_heads:
        return KernelOptions((-1, -1), None)
    return KernelOptions((-1 if window is None else window - 1, 0), 1)


class VarlenAttention(PagedAttention):
    """PagedAttention whose inputs are tensors, which may be the static ones of a CUDA graph.

    slots [T]; query_starts [N + 1]; num_keys [N]; block_table [N, blocks per sequence]; int32 except slots.
    """

    def __init__(
        self,
        kv_cache: KVCache,
        slots: torch.Tensor,
        query_starts: torch.Tensor,
        num_keys: torch.Tensor,
        block_table: torch.Tensor,
        max_queries: int,
    ) -> None:
        self.kv_cache = kv_cache
        self.slots = slots
        self.query_starts = query_starts
        self.num_keys = num_keys
        self.block_table = block_table
        self.max_queries = max_queries

    @classmethod
    def of_rows(cls, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> "VarlenAttention":
        """For a ragged step, in which each row has its own number of queries."""
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + row.num_inputs)
        num_keys = [row.start + row.num_inputs for row in rows]
        width = max(len(row.sequence.block_ids) for row in rows)
        table = [row.sequence.block_ids + [0] * (width - len(row.sequence.block_ids)) for row in rows]
        return cls(
            kv_cache,
            upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device),
            upload(torch.tensor(starts, dtype=torch.int32), device),
            upload(torch.tensor(num_keys, dtype=torch.int32), device),
            upload(torch.tensor(table, dtype=torch.int32), device),
            max(row.num_inputs for row in rows),
        )

    def attend(self, layer_idx: int, query: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        """`query` is [T, heads, key_dim]; returns [T, heads, value_dim]. The kernel takes neither softcap nor sinks."""
        if not spec.has_plain_scores:
            raise NotImplementedError("torch's varlen kernel has no softcap and no sinks")
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        max_keys = self.block_table.shape[1] * self.kv_cache.block_size
        window = spec.window if spec.window is not None and spec.window < max_keys else None
        options = kernel_options(self.max_queries, query.shape[1], len(keys), window)
        output = varlen.varlen_attn(
            query,
            keys.permute(1, 2, 0, 3),  # [blocks, block_size, kv_heads, dim], the layout in a GPU's memory
            values.permute(1, 2, 0, 3),
            self.query_starts,
            self.query_starts,  # not used with a block table, but the kernel refuses None
            self.max_queries,
            max_keys,
            scale=spec.scale,
            window_size=options.window,
            enable_gqa=query.shape[1] != len(keys),
            seqused_k=self.num_keys,
            block_table=self.block_table,
            num_splits=options.num_splits,
        )
        assert isinstance(output, torch.Tensor)
        return output


def fits_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """True where the kernel may run. It needs an Ampere GPU or newer, and raises on an older one.

    The kernel of torch 2.11 takes no block tables.
    """
    takes_tables = "block_table" in inspect.signature(varlen.varlen_attn).parameters
    return takes_tables and device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


@torch.inference_mode()
def runs_varlen(kv_cache: KVCache) -> bool:
    """True if the kernel takes the shapes of every layer on this GPU. Runs it, and writes nothing."""
    device, dtype = kv_cache.keys[0].device, kv_cache.keys[0].dtype
    ones = torch.ones(1, dtype=torch.int32, device=device)
    starts = torch.arange(2, dtype=torch.int32, device=device)
    attention = VarlenAttention(kv_cache, ones, starts, ones, torch.zeros_like(ones)[None], max_queries=1)
    try:
        for layer_idx, shape in enumerate(kv_cache.shapes):
            query = torch.zeros(1, shape.num_kv_heads, shape.key_dim, dtype=dtype, device=device)
            attention.attend(layer_idx, query, AttentionSpec(scale=1.0))
    except RuntimeError:
        check_device()
        return False
    return True
