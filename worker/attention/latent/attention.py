"""Attention of a ragged step over the paged latents, by torch, on any device.

In the cache a token's latent is its key, of one head, and its index key, where the layer chooses keys by such, its
value.
"""

from collections.abc import Sequence as Seq

import torch

from worker.attention.groups import build_groups, token_slots
from worker.attention.latent.dense import attend_all
from worker.attention.latent.spec import LatentSpec
from worker.attention.paged import write_slots
from worker.device import upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence


class LatentAttention:
    """Writes the step's latents into the cache and attends over them, layer by layer."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        self.kv_cache = kv_cache
        self.slots = upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device)  # [T]
        self.groups = build_groups(rows, kv_cache.block_size, device)

    def write(self, layer_idx: int, latents: torch.Tensor, index_keys: torch.Tensor | None) -> None:
        """This step's latents, [T, width], their last numbers rotated, and index keys, [T, index width], if there are.

        Both of a dtype that the cache's is of.
        """
        values = latents[:, :0] if index_keys is None else index_keys
        write_slots(self.kv_cache, layer_idx, self.slots, latents[:, None], values[:, None])

    def attend(self, layer_idx: int, queries: torch.Tensor, spec: LatentSpec) -> torch.Tensor:
        """Queries [T, heads, width], as latents are -> [T, heads, spec.rank]: weighted sums of latents."""
        pool = self.kv_cache.keys[layer_idx]
        outputs = []
        for group in self.groups:
            own = queries[group.start : group.stop]
            outputs.append(attend_all(own, group.gather(pool)[0], group, spec.rank, spec.scale))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
