"""Attention of a ragged step over the paged KV cache, by torch, on any device."""

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from worker.attention.groups import AttentionGroup, build_groups, token_slots
from worker.attention.products import attend_group
from worker.attention.spec import AttentionSpec, attention_spec
from worker.device import upload
from worker.state.kv_cache import FP8, KVCache, as_indexed
from worker.state.scheduled_sequence import ScheduledSequence

ATTENTION_NAME = "omni_paged"
MAX_FP8 = torch.finfo(FP8).max


class Attention(Protocol):
    """Called by forward passes: write the step's keys and values, then attend. Shapes as in PagedAttention."""

    def forward(
        self, layer_idx: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor: ...
    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None: ...
    def attend(self, layer_idx: int, query: torch.Tensor, spec: AttentionSpec) -> torch.Tensor: ...


class PagedAttention:
    """Writes the step's keys and values into the cache and attends, layer by layer."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        self.kv_cache = kv_cache
        self.slots = upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device)  # [T]
        self.groups = build_groups(rows, kv_cache.block_size, device)

    def forward(
        self, layer_idx: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        """For transformers, with heads first: [1, heads, T, dim] each; returns [T, heads, value_dim]."""
        self.write(layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1))
        return self.attend(layer_idx, query[0].transpose(0, 1), spec)

    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """This step's keys and values, [T, kv_heads, dim] each."""
        write_slots(self.kv_cache, layer_idx, self.slots, key, value)

    def attend(self, layer_idx: int, query: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        """`query` is [T, heads, key_dim]; returns [T, heads, value_dim]."""
        cache = self.kv_cache
        outputs = []
        for group in self.groups:
            keys = read_blocks(cache.keys[layer_idx], cache.key_scales[layer_idx], group, query.dtype)
            values = read_blocks(cache.values[layer_idx], cache.value_scales[layer_idx], group, query.dtype)
            outputs.append(attend_group(query[group.start : group.stop], group, keys, values, spec))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def write_slots(kv_cache: KVCache, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Write keys and values, [T, kv_heads, dim] each, to the `slots` [T] of the layer's pools."""
    for pool, scales, new in (
        (kv_cache.keys[layer_idx], kv_cache.key_scales[layer_idx], key),
        (kv_cache.values[layer_idx], kv_cache.value_scales[layer_idx], value),
    ):
        stored = new if scales is None else as_indexed(rounded_to_fp8(new, scales))
        pool = as_indexed(pool)
        if pool.is_contiguous():
            pool.flatten(1, 2).index_copy_(1, slots, stored.transpose(0, 1))
        else:  # a GPU's
            by_token = pool.permute(1, 2, 0, 3)  # [blocks, block_size, kv_heads, dim]
            by_token[slots // kv_cache.block_size, slots % kv_cache.block_size] = stored


def rounded_to_fp8(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[T, kv_heads, dim] divided by the scales [kv_heads]. Larger ones than fp8 has become its largest."""
    return (numbers.float() / scales[:, None]).clamp(-MAX_FP8, MAX_FP8).to(FP8)


def read_blocks(
    pool: torch.Tensor, scales: torch.Tensor | None, group: AttentionGroup, dtype: torch.dtype
) -> torch.Tensor:
    """Keys or values of a group, [kv_heads, batch, num_keys, dim]; those of an fp8 pool are converted to `dtype`."""
    numbers = group.gather(as_indexed(pool))
    if scales is None:
        return numbers
    return (numbers.view(FP8).float() * scales[:, None, None, None]).to(dtype)


def register_attention() -> None:
    """Register PagedAttention as an attention implementation of transformers, under ATTENTION_NAME."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paged: Attention,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Called by transformers: query [B, heads, T, dim], key and value [B, kv_heads, T, dim] -> [B, T, heads, dim]."""
    layer_idx = int(module.layer_idx)  # type: ignore[arg-type]
    batch, spec = len(query), attention_spec(query, **kwargs)
    if batch > 1:
        query, key, value = (part.transpose(0, 1).flatten(1, 2)[None] for part in (query, key, value))
    output = paged.forward(layer_idx, query, key, value, spec)
    return output.view(batch, -1, *output.shape[1:]), None
