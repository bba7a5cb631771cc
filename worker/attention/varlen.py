"""Paged attention on a GPU: one kernel of torch's over all sequences of the step, reading keys through block tables."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch.nn.attention import varlen

from worker.attention.paged import Form, PagedAttention, token_slots
from worker.device import check_device, upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence


@dataclass(frozen=True, slots=True)
class Call:
    """How the kernel is asked: the window (left, right), -1 being open, and into how many parts it may cut the keys."""

    window: tuple[int, int]
    num_splits: int | None  # None: as many as fill the GPU


def call_of(max_queries: int, num_heads: int, num_kv_heads: int, window: int | None) -> Call:
    """What torch 2.13's kernel computes right, and fast where it can.

    Cutting keys in parts is what fills a GPU when few sequences decode. With block tables the parts are put together
    right only where the heads that share keys become the queries of one sequence (pytorch/pytorch#194167: elsewhere
    every sequence's sum goes to the first one's place). It does so for single queries without any window, and a single
    query sees every key, so it needs none.
    """
    if max_queries == 1 and window is None and num_heads > num_kv_heads:
        return Call((-1, -1), None)
    return Call((-1 if window is None else window - 1, 0), 1)


class VarlenAttention(PagedAttention):
    """The same as PagedAttention, from tensors that may be the static ones of a CUDA graph.

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
        """For a ragged step: every row its own number of queries."""
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

    def attend(self, layer_idx: int, query: torch.Tensor, form: Form) -> torch.Tensor:
        """`query` is [T, heads, key_dim]; returns [T, heads, value_dim]. The kernel takes neither softcap nor sinks."""
        if form.softcap is not None or form.sinks is not None:
            raise NotImplementedError("torch's varlen kernel has no softcap and no sinks")
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        max_keys = self.block_table.shape[1] * self.kv_cache.block_size
        window = form.window if form.window is not None and form.window < max_keys else None
        call = call_of(self.max_queries, query.shape[1], len(keys), window)
        output = varlen.varlen_attn(
            query,
            keys.permute(1, 2, 0, 3),  # [blocks, block_size, kv_heads, dim], as it lies in a GPU's memory
            values.permute(1, 2, 0, 3),
            self.query_starts,
            self.query_starts,  # where keys start is in the block table, but the kernel refuses None
            self.max_queries,
            max_keys,
            scale=form.scale,
            window_size=call.window,
            enable_gqa=query.shape[1] != len(keys),
            seqused_k=self.num_keys,
            block_table=self.block_table,
            num_splits=call.num_splits,
        )
        assert isinstance(output, torch.Tensor)
        return output


def fits_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is worth a try. It needs an Ampere GPU or newer, and says so itself."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


@torch.inference_mode()
def runs_varlen(kv_cache: KVCache) -> bool:
    """Whether the kernel takes the shapes of every layer on this GPU. Writes nothing."""
    device, dtype = kv_cache.keys[0].device, kv_cache.keys[0].dtype
    ones = torch.ones(1, dtype=torch.int32, device=device)
    starts = torch.arange(2, dtype=torch.int32, device=device)
    attention = VarlenAttention(kv_cache, ones, starts, ones, torch.zeros_like(ones)[None], max_queries=1)
    try:
        for layer_idx, shape in enumerate(kv_cache.shapes):
            query = torch.zeros(1, shape.num_kv_heads, shape.key_dim, dtype=dtype, device=device)
            attention.attend(layer_idx, query, Form(scale=1.0))
    except RuntimeError:
        check_device()
        return False
    return True
