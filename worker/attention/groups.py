"""Cuts a step into kernel calls.

The tokens of a step lie flat, [T]: first sequences that decode, longest context first, then chunks of prompts.
Neighbours of similar length form an AttentionGroup and share one kernel call. There is no mask between sequences, so
the cost grows with the keys attended to and not with the square of the batch.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch

from worker.device import upload
from worker.state.scheduled_sequence import ScheduledSequence

MAX_PADDING = 0.3  # share of padded keys that one kernel call may have before a group is split


@dataclass(slots=True)
class AttentionGroup:
    """Tokens `[start, stop)` of a step: `batch` sequences with `num_queries` tokens and up to `num_keys` keys each."""

    start: int
    stop: int
    batch: int
    num_queries: int
    num_keys: int
    blocks: torch.Tensor | slice  # of the pool; a slice if they are consecutive, which saves a copy
    query_positions: torch.Tensor  # [batch, num_queries]
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def gather(self, pool: torch.Tensor) -> torch.Tensor:
        """Keys or values of the group, [kv_heads, batch, num_keys, dim]."""
        rows = pool[:, self.blocks] if isinstance(self.blocks, slice) else pool.index_select(1, self.blocks)
        return rows.reshape(len(pool), self.batch, -1, pool.shape[-1])[:, :, : self.num_keys]

    def mask(self, window: int | None, num_shared: int, dtype: torch.dtype) -> torch.Tensor | None:
        """[batch, num_queries * num_shared, num_keys]: 0 where a query attends to a key, else -inf; None if all are 0.

        With one query the middle dimension is 1: the mask is the same for the `num_shared` heads of a KV head.
        """
        if window not in self.masks:
            mask = self._build_mask(window, dtype)
            is_repeated = mask is not None and self.num_queries > 1
            self.masks[window] = mask.repeat_interleave(num_shared, dim=1) if is_repeated and mask is not None else mask
        return self.masks[window]

    def _build_mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        if self.batch == self.num_queries == 1 and (window is None or self.num_keys <= window):
            return None
        keys = torch.arange(self.num_keys, device=self.query_positions.device)
        hidden = keys > self.query_positions[..., None]
        if window is not None:
            hidden |= keys <= self.query_positions[..., None] - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill_(hidden, float("-inf"))


def token_slots(rows: Seq[ScheduledSequence], block_size: int) -> list[int]:
    """The slot of each token of the step: its index in the pool's tokens, all blocks in a row."""
    slots = []
    for row in rows:
        block_ids = row.sequence.block_ids
        for position in range(row.start, row.start + row.num_inputs):
            slots.append(block_ids[position // block_size] * block_size + position % block_size)
    return slots


def build_groups(rows: Seq[ScheduledSequence], block_size: int, device: torch.device) -> list[AttentionGroup]:
    """Cut the step into kernel calls: single tokens with contexts of similar length together, each longer row alone."""
    groups: list[AttentionGroup] = []
    start, at = 0, 0
    while at < len(rows):
        size = 1
        if rows[at].num_inputs == 1:
            longest = total = rows[at].start + 1
            while at + size < len(rows) and rows[at + size].num_inputs == 1:
                total += rows[at + size].start + 1
                if longest * (size + 1) > total / (1 - MAX_PADDING):
                    break
                size += 1
        groups.append(build_group(rows[at : at + size], start, block_size, device))
        start = groups[-1].stop
        at += size
    return groups


def build_group(rows: Seq[ScheduledSequence], start: int, block_size: int, device: torch.device) -> AttentionGroup:
    """One kernel call for rows with equal numbers of tokens; the first has the longest context."""
    num_queries = rows[0].num_inputs
    num_keys = rows[0].start + num_queries
    num_blocks = -(-num_keys // block_size)
    table = [row.sequence.block_ids[:num_blocks] for row in rows]
    flat = [block_id for block_ids in table for block_id in block_ids + [0] * (num_blocks - len(block_ids))]
    is_run = len(rows) == 1 and flat[-1] - flat[0] == len(flat) - 1 and flat == list(range(flat[0], flat[-1] + 1))
    return AttentionGroup(
        start=start,
        stop=start + len(rows) * num_queries,
        batch=len(rows),
        num_queries=num_queries,
        num_keys=num_keys,
        blocks=slice(flat[0], flat[-1] + 1) if is_run else upload(torch.tensor(flat), device),
        query_positions=upload(torch.tensor([[row.start + at for at in range(num_queries)] for row in rows]), device),
    )
