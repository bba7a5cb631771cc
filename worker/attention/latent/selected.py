"""Attention of each token over the keys that were selected for it."""

from collections.abc import Sequence as Seq

import torch

from worker.attention.groups import AttentionGroup
from worker.attention.latent.selection import Selected, pieces
from worker.attention.latent.spec import LatentSpec

MAX_GATHERED = 2**23  # numbers of latents that are copied at a time


def attend_selected(
    queries: torch.Tensor, pool: torch.Tensor, selected: Selected, groups: Seq[AttentionGroup], spec: LatentSpec
) -> torch.Tensor:
    """`queries` [T, heads, width] over a layer's latents, `pool` [1, blocks, size, width] -> [T, heads, rank]."""
    latents = as_slots(pool)
    output = queries.new_empty(*queries.shape[:2], spec.rank)
    topk = selected.slots.shape[1]
    for group in groups:
        most = min(topk, group.num_keys)
        for piece in pieces(group.stop - group.start, MAX_GATHERED // (most * latents.shape[1])):
            rows = slice(group.start + piece.start, group.start + piece.stop)
            slots, counts = selected.slots[rows, :most], selected.counts[rows]
            output[rows] = attend_rows(queries[rows], latents, slots, counts, spec)
    return output


def attend_rows(
    queries: torch.Tensor, latents: torch.Tensor, slots: torch.Tensor, counts: torch.Tensor, spec: LatentSpec
) -> torch.Tensor:
    """[rows, heads, width] over latents [slots, width] at `slots` [rows, most] -> [rows, heads, rank]."""
    hidden = torch.arange(slots.shape[1], device=slots.device) >= counts[:, None]
    seen = latents[torch.where(hidden, slots[:, :1], slots).long()]  # [rows, most, width]
    scores = torch.bmm(queries, seen.transpose(1, 2)) * spec.scale
    weights = scores.masked_fill_(hidden[:, None], float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return torch.bmm(weights.to(queries.dtype), seen[..., : spec.rank])


def as_slots(pool: torch.Tensor) -> torch.Tensor:
    """A pool of latents as [slots, width], the same memory."""
    return pool[0].view(-1, pool.shape[3])
