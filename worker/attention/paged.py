"""Attention of a ragged step over the paged KV cache, by torch, on any device."""

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from worker.attention.groups import build_groups, token_slots
from worker.attention.products import attend_group
from worker.attention.spec import AttentionSpec, attention_spec
from worker.device import upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

ATTENTION_NAME = "omni_paged"


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
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        outputs = []
        for group in self.groups:
            own = query[group.start : group.stop]
            outputs.append(attend_group(own, group, group.gather(keys), group.gather(values), spec))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def write_slots(kv_cache: KVCache, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Write keys and values, [T, kv_heads, dim] each, to the `slots` [T] of the layer's pools."""
    for pool, new in ((kv_cache.keys[layer_idx], key), (kv_cache.values[layer_idx], value)):
        pool.flatten(1, 2).index_copy_(1, slots, new.transpose(0, 1))


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
