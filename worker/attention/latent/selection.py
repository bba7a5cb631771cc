"""Which keys the tokens of a step attend to: those with the highest index scores, `topk` of each token's own.

The index score of a key is the weighted sum, over the index heads, of the positive part of its product with a head's
query. It costs 2 * heads * dim operations for each pair of a token and a key, which is all that grows with the square
of the context; no more than MAX_ROW_SCORES scores of tokens and MAX_HEAD_SCORES of heads are held at a time.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from worker.attention.groups import AttentionGroup
from worker.attention.latent.index_keys import is_8_bit, read_index_keys, turned

MAX_ROW_SCORES = 2**23  # of tokens and keys, 32 MB
MAX_HEAD_SCORES = 2**21  # of tokens, heads and keys, 8 MB: they stay in a cache


@dataclass(frozen=True, slots=True)
class Selected:
    """The keys of each token, in the order of their positions."""

    slots: torch.Tensor  # [T, topk] int32, of the layer's pool; undefined from a token's `counts` on
    counts: torch.Tensor  # [T] int32


def select(
    pool: torch.Tensor, groups: Seq[AttentionGroup], queries: torch.Tensor, head_weights: torch.Tensor, topk: int
) -> Selected | None:
    """The `topk` keys of each token with the highest scores, or all if it sees no more; None if that holds for all.

    `pool`: of the layer's index keys. `queries` [T, heads, dim] with positions; `head_weights` [T, heads] float32.
    """
    if all(group.num_keys <= topk for group in groups):
        return None
    slots = torch.zeros(len(queries), topk, dtype=torch.int32, device=queries.device)
    queries = turned(queries.float()) if is_8_bit(pool) else queries
    for group in groups:
        part = slice(group.start, group.stop)
        select_group(pool, group, queries[part], head_weights[part], slots[part])
    positions = torch.cat([group.query_positions.flatten() for group in groups])
    return Selected(slots, (positions + 1).clamp(max=topk).int())


def select_group(
    pool: torch.Tensor, group: AttentionGroup, queries: torch.Tensor, head_weights: torch.Tensor, slots: torch.Tensor
) -> None:
    """Write the slots of a group's tokens, [tokens, topk]."""
    topk, own_slots = slots.shape[1], slots_of(group, pool.shape[2])
    if group.num_keys <= topk:
        slots[:, : group.num_keys] = own_slots.repeat_interleave(group.num_queries, dim=0)
        return
    for at in range(group.batch):
        keys = read_index_keys(pool, blocks_of(group, at))[: group.num_keys]
        of_row = slice(at * group.num_queries, (at + 1) * group.num_queries)
        for piece in pieces(group.num_queries, MAX_ROW_SCORES // group.num_keys):
            positions = group.query_positions[at, piece, None]
            scores = index_scores(queries[of_row][piece], head_weights[of_row][piece], keys)
            scores.masked_fill_(torch.arange(group.num_keys, device=scores.device) > positions, float("-inf"))
            slots[of_row][piece] = own_slots[at][highest(scores, positions, topk)]


def highest(scores: torch.Tensor, positions: torch.Tensor, topk: int) -> torch.Tensor:
    """The places [rows, topk] of each row's highest scores, ascending; those after its own, [rows, 1], come last."""
    found: torch.Tensor = scores.topk(topk, dim=1, sorted=False).indices
    return found.masked_fill_(found > positions, scores.shape[1] - 1).sort(dim=1).values


def index_scores(queries: torch.Tensor, head_weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[rows, heads, dim], [rows, heads] and [keys, dim], all float32 -> [rows, keys]."""
    num_rows, num_heads, dim = queries.shape
    scores = queries.new_empty(num_rows, len(keys))
    for some in pieces(len(keys), 2048):
        for rows in pieces(num_rows, MAX_HEAD_SCORES // (num_heads * (some.stop - some.start))):
            products = queries[rows].reshape(-1, dim) @ keys[some].T
            positive = products.relu_().view(rows.stop - rows.start, num_heads, -1)
            scores[rows, some] = torch.bmm(head_weights[rows, None], positive)[:, 0]
    return scores


def pieces(total: int, most: int) -> Iterator[slice]:
    """Slices of range(total) of `most` at most, and of one at least."""
    most = max(1, most)
    return (slice(start, min(start + most, total)) for start in range(0, total, most))


def blocks_of(group: AttentionGroup, at: int) -> torch.Tensor | slice:
    """The blocks of a row of a group."""
    return group.blocks if isinstance(group.blocks, slice) else group.blocks.view(group.batch, -1)[at]


def slots_of(group: AttentionGroup, size: int) -> torch.Tensor:
    """[batch, num_keys] int32: the slots of a group's keys."""
    blocks = group.blocks
    if isinstance(blocks, slice):
        blocks = torch.arange(blocks.start, blocks.stop, device=group.query_positions.device)
    slots = blocks[:, None] * size + torch.arange(size, device=blocks.device)
    return slots.view(group.batch, -1)[:, : group.num_keys].int()
