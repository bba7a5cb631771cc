"""Attention of one group of queries over all latents before them, in pieces that bound the memory of the scores."""

import torch

from worker.attention.groups import AttentionGroup

MAX_SCORES = 2**23  # numbers in one matrix of scores


def attend_all(
    queries: torch.Tensor, latents: torch.Tensor, group: AttentionGroup, rank: int, scale: float
) -> torch.Tensor:
    """Queries [rows, heads, width] over latents [batch, num_keys, width] -> [rows, heads, rank].

    A chunk's early queries do not read its later keys. Memory: MAX_SCORES scores, or those of one query if it has more.
    """
    heads, width = queries.shape[1:]
    folded = queries.view(group.batch, group.num_queries, heads, width)
    size = max(1, MAX_SCORES // (group.batch * heads * group.num_keys))
    outputs = [
        attend_piece(folded[:, start : start + size], latents, group, start, rank, scale)
        for start in range(0, group.num_queries, size)
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return output.reshape(-1, heads, rank)


def attend_piece(
    queries: torch.Tensor, latents: torch.Tensor, group: AttentionGroup, start: int, rank: int, scale: float
) -> torch.Tensor:
    """The queries [batch, some, heads, width] from the group's `start`th on -> [batch, some, heads, rank]."""
    batch, num_queries, heads, width = queries.shape
    seen = group.num_keys - (group.num_queries - start - num_queries)
    latents = latents[:, :seen]
    scores = torch.bmm(queries.flatten(1, 2), latents.transpose(1, 2)).mul_(scale)
    if batch > 1 or num_queries > 1:
        keys = torch.arange(seen, device=latents.device)
        hidden = keys > group.query_positions[:, start : start + num_queries, None, None]
        scores.view(batch, num_queries, heads, seen).masked_fill_(hidden, float("-inf"))
    return torch.bmm(scores.softmax(dim=-1), latents[..., :rank]).view(batch, num_queries, heads, rank)
