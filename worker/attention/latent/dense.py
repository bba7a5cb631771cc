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
    output = queries.new_empty(group.batch, group.num_queries, heads, rank)
    most = max(1, MAX_SCORES // (heads * group.num_keys))  # queries at a time
    num_queries = min(most, group.num_queries)
    num_rows = max(1, most // num_queries)
    for row in range(0, group.batch, num_rows):
        rows = slice(row, row + num_rows)
        for start in range(0, group.num_queries, num_queries):
            part = rows, slice(start, start + num_queries)
            num_after = group.num_queries - min(start + num_queries, group.num_queries)
            seen = latents[rows, : group.num_keys - num_after]
            output[part] = attend_piece(folded[part], seen, group.query_positions[part], rank, scale)
    return output.view(-1, heads, rank)


def attend_piece(
    queries: torch.Tensor, latents: torch.Tensor, positions: torch.Tensor, rank: int, scale: float
) -> torch.Tensor:
    """The queries [batch, some, heads, width] at `positions` [batch, some] -> [batch, some, heads, rank]."""
    batch, num_queries, heads, _ = queries.shape
    num_keys = latents.shape[1]
    scores = torch.bmm(queries.flatten(1, 2), latents.transpose(1, 2)).mul_(scale)
    keys = torch.arange(num_keys, device=latents.device)
    hidden = keys > positions[..., None, None]
    scores.view(batch, num_queries, heads, num_keys).masked_fill_(hidden, float("-inf"))
    return torch.bmm(scores.softmax(dim=-1), latents[..., :rank]).view(batch, num_queries, heads, rank)
