"""Attention of a ragged step over the paged latents, by torch, on any device.

In the cache a token's latent is its key, of one head, and its index key, where the layer chooses keys by such, its
value.
"""

from collections.abc import Sequence as Seq

import torch

from worker.attention.groups import build_groups, token_slots
from worker.attention.latent.dense import attend_all
from worker.attention.latent.index_keys import write_index_keys
from worker.attention.latent.selected import as_slots, attend_selected
from worker.attention.latent.selection import Selected, select
from worker.attention.latent.spec import LatentSpec
from worker.device import upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence


class LatentAttention:
    """Writes the step's latents into the cache and attends over them, layer by layer."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        self.kv_cache = kv_cache
        self.slots = upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device)  # [T]
        self.groups = build_groups(rows, kv_cache.block_size, device)
        self.selected: Selected | None = None  # by the last layer that chose keys

    def write(self, layer_idx: int, latents: torch.Tensor, index_keys: torch.Tensor | None) -> None:
        """This step's latents, [T, width], their last numbers rotated, and index keys, [T, index dim], if there are."""
        by_slot = as_slots(self.kv_cache.keys[layer_idx])
        by_slot.index_copy_(0, self.slots, latents.to(by_slot.dtype))
        if index_keys is not None:
            write_index_keys(self.kv_cache.values[layer_idx], self.slots, index_keys)

    def select(
        self, layer_idx: int, index_queries: torch.Tensor, head_weights: torch.Tensor, spec: LatentSpec
    ) -> Selected | None:
        """The keys of each token, by their scores for index queries [T, heads, dim], which are rotated.

        `head_weights` [T, heads] float32. None: all keys, as where no token sees more than `spec.topk`.
        """
        if spec.topk is None:
            return None
        pool = self.kv_cache.values[layer_idx]
        self.selected = select(pool, self.groups, index_queries, head_weights, spec.topk)
        return self.selected

    def attend(
        self, layer_idx: int, queries: torch.Tensor, selected: Selected | None, spec: LatentSpec
    ) -> torch.Tensor:
        """Queries [T, heads, width], as latents are -> [T, heads, spec.rank]: weighted sums of latents."""
        pool = self.kv_cache.keys[layer_idx]
        if selected is not None:
            return attend_selected(queries, pool, selected, self.groups, spec)
        outputs = []
        for group in self.groups:
            own = queries[group.start : group.stop]
            outputs.append(attend_all(own, group.gather(pool)[0], group, spec.rank, spec.scale))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
