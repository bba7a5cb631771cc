"""Attention of a ragged step: every sequence over its own KV blocks, whatever else is in the batch.

The tokens of a step lie flat, [T]: first those that decode, longest context first, then chunks of prompts. Neighbours
of similar length form a `Group` and share one kernel call; there is no mask between sequences, so cost grows with what
is attended and not with the square of the batch.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from worker.device import upload
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

ATTENTION_NAME = "omni_paged"
PIECE_QUERIES = 128  # of a prompt chunk that go through one matrix product
MAX_SCORES = 2**23  # numbers in one score matrix
MAX_PADDING = 0.3  # share of padded keys that one kernel call may carry before a group is split


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer attends: what its model does to the scores."""

    scale: float
    window: int | None = None  # keys further back than this are not seen
    softcap: float | None = None  # scores are squeezed into (-softcap, softcap)
    sinks: torch.Tensor | None = None  # [heads]: a score per head that takes its share of attention and gives nothing


@dataclass(slots=True)
class Group:
    """Rows `[start, stop)` of the step: `batch` sequences with `num_queries` tokens each, over `num_keys` at most."""

    start: int
    stop: int
    batch: int
    num_queries: int
    num_keys: int
    blocks: torch.Tensor | slice  # of the pool; a slice when they lie side by side, which saves the copy
    query_positions: torch.Tensor  # [batch, num_queries]
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def gather(self, pool: torch.Tensor) -> torch.Tensor:
        """Keys or values of the group, [kv_heads, batch, num_keys, dim]."""
        rows = pool[:, self.blocks] if isinstance(self.blocks, slice) else pool.index_select(1, self.blocks)
        return rows.view(len(pool), self.batch, -1, pool.shape[-1])[:, :, : self.num_keys]

    def mask(self, window: int | None, num_shared: int, dtype: torch.dtype) -> torch.Tensor | None:
        """[batch, num_queries * num_shared, num_keys], 0 where a key may be seen, else -inf; None if all may.

        With one query the middle dimension is 1: it is the same for the `num_shared` heads of a KV head.
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


class Attention(Protocol):
    """What a forward pass needs: write this step's keys and values, then attend. Shapes as in PagedAttention."""

    def forward(
        self, layer_idx: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, form: Form
    ) -> torch.Tensor: ...
    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None: ...
    def attend(self, layer_idx: int, query: torch.Tensor, form: Form) -> torch.Tensor: ...


class PagedAttention:
    """Writes the step's keys and values into the cache and attends, layer by layer."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        self.kv_cache = kv_cache
        self.slots = upload(torch.tensor(token_slots(rows, kv_cache.block_size)), device)  # [T] rows of the flat pool
        self.groups = build_groups(rows, kv_cache.block_size, device)

    def forward(
        self, layer_idx: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, form: Form
    ) -> torch.Tensor:
        """Heads first, as transformers has them: [1, heads, T, dim] each; returns [T, heads, value_dim]."""
        self.write(layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1))
        return self.attend(layer_idx, query[0].transpose(0, 1), form)

    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """This step's keys and values, [T, kv_heads, dim] each."""
        write_slots(self.kv_cache, layer_idx, self.slots, key, value)

    def attend(self, layer_idx: int, query: torch.Tensor, form: Form) -> torch.Tensor:
        """`query` is [T, heads, key_dim]; returns [T, heads, value_dim]."""
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        outputs = []
        for group in self.groups:
            own = query[group.start : group.stop]
            outputs.append(attend_group(own, group, group.gather(keys), group.gather(values), form))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def write_slots(kv_cache: KVCache, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Keys and values, [T, kv_heads, dim] each, into the rows `slots` [T] of the layer's pools seen flat."""
    for pool, new in ((kv_cache.keys[layer_idx], key), (kv_cache.values[layer_idx], value)):
        pool.flatten(1, 2).index_copy_(1, slots, new.transpose(0, 1))


def attend_group(
    query: torch.Tensor,
    group: Group,
    key: torch.Tensor,
    value: torch.Tensor,
    form: Form,
) -> torch.Tensor:
    """Queries [rows, heads, dim] over keys and values [kv_heads, batch, num_keys, dim] -> [rows, heads, value_dim].

    The query heads that share a KV head are folded into the query length, so that keys are read once for all of them.
    """
    kv_heads, batch = key.shape[:2]
    folded = query.reshape(batch, group.num_queries, kv_heads, -1, query.shape[-1]).permute(2, 0, 1, 3, 4)
    num_shared = folded.shape[3]
    folded = folded.reshape(kv_heads, batch, group.num_queries * num_shared, query.shape[-1])
    mask = group.mask(form.window, num_shared, query.dtype)
    if form.softcap is not None or form.sinks is not None:
        output = explicit_attention(folded, key, value, mask, form)
    elif prefers_products(folded):
        output = product_attention(folded, key, value, mask, form.scale, num_shared)
    else:
        output = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=form.scale)
    output = output.view(kv_heads, batch, group.num_queries, num_shared, value.shape[-1]).permute(1, 2, 0, 3, 4)
    return output.reshape(batch * group.num_queries, kv_heads * num_shared, value.shape[-1])


def prefers_products(folded: torch.Tensor) -> bool:
    """Where two bf16 matrix products beat torch's fused kernel: on a CPU, except for a few short queries."""
    kv_heads, batch, num_rows, _ = folded.shape
    return folded.device.type == "cpu" and folded.dtype == torch.bfloat16 and kv_heads * batch * num_rows >= 28


def product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    num_shared: int,
) -> torch.Tensor:
    """Softmax attention by matrix products, [kv_heads, batch, rows, dim] each, in pieces whose scores stay in cache."""
    kv_heads, batch, num_rows, _ = query.shape
    num_keys = key.shape[2]
    flat_key, flat_value = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
    query = query.flatten(0, 1)
    if mask is None:
        mask = query.new_zeros(1, 1, 1)
    elif batch > 1:
        mask = mask.repeat(kv_heads, 1, 1)
    step = num_rows
    if mask.shape[1] == num_rows > num_shared:  # a chunk of a prompt: later keys are hidden from its earlier pieces
        step = num_shared * max(16, min(PIECE_QUERIES, MAX_SCORES // (kv_heads * num_shared * num_keys)))
    outputs = []
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        seen = num_keys - (num_rows - stop) // num_shared
        own_mask = mask[:, start:stop, :seen] if step < num_rows else mask
        scores = torch.baddbmm(own_mask, query[:, start:stop], flat_key[:, :, :seen], alpha=scale)
        outputs.append(torch.bmm(scores.softmax(dim=-1), flat_value[:, :seen]))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return output.view(kv_heads, batch, num_rows, -1)


def explicit_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, form: Form
) -> torch.Tensor:
    """Attention written out, [kv_heads, batch, rows, dim] each, for scores that no kernel of torch's computes."""
    scores = query @ key.transpose(2, 3) * form.scale
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    if mask is not None:
        scores = scores + mask
    if form.sinks is None:
        return scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype) @ value
    kv_heads, batch, num_rows, _ = query.shape
    own = form.sinks.to(scores.dtype).view(kv_heads, 1, -1)  # rows run over the heads that share a KV head, per query
    sinks = own.repeat(1, batch, num_rows // own.shape[-1]).unsqueeze(-1)
    weights = torch.cat([scores, sinks], dim=-1).softmax(dim=-1, dtype=torch.float32)
    return weights[..., :-1].to(query.dtype) @ value


def token_slots(rows: Seq[ScheduledSequence], block_size: int) -> list[int]:
    """Where each token of the step is written, as a row of the pool seen flat."""
    slots = []
    for row in rows:
        block_ids = row.sequence.block_ids
        for position in range(row.start, row.start + row.num_inputs):
            slots.append(block_ids[position // block_size] * block_size + position % block_size)
    return slots


def build_groups(rows: Seq[ScheduledSequence], block_size: int, device: torch.device) -> list[Group]:
    """Cut the step into kernel calls: single tokens of similar context together, each longer row alone."""
    groups: list[Group] = []
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


def build_group(rows: Seq[ScheduledSequence], start: int, block_size: int, device: torch.device) -> Group:
    """One kernel call for rows of equal length in tokens; the first has the longest context."""
    num_queries = rows[0].num_inputs
    num_keys = rows[0].start + num_queries
    num_blocks = -(-num_keys // block_size)
    table = [row.sequence.block_ids[:num_blocks] for row in rows]
    flat = [block_id for block_ids in table for block_id in block_ids + [0] * (num_blocks - len(block_ids))]
    is_run = len(rows) == 1 and flat[-1] - flat[0] == len(flat) - 1 and flat == list(range(flat[0], flat[-1] + 1))
    return Group(
        start=start,
        stop=start + len(rows) * num_queries,
        batch=len(rows),
        num_queries=num_queries,
        num_keys=num_keys,
        blocks=slice(flat[0], flat[-1] + 1) if is_run else upload(torch.tensor(flat), device),
        query_positions=upload(torch.tensor([[row.start + at for at in range(num_queries)] for row in rows]), device),
    )


def register_attention() -> None:
    """Make PagedAttention an attention implementation that any transformers model can be told to use."""
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
    """transformers' hook: query [B, heads, T, dim], key and value [B, kv_heads, T, dim] -> [B, T, heads, dim]."""
    layer_idx = int(module.layer_idx)  # type: ignore[arg-type]
    batch, form = len(query), form_of(query, **kwargs)
    if batch > 1:
        query, key, value = (part.transpose(0, 1).flatten(1, 2)[None] for part in (query, key, value))
    output = paged.forward(layer_idx, query, key, value, form)
    return output.view(batch, -1, *output.shape[1:]), None


def form_of(
    query: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> Form:
    """From what transformers' models tell an attention implementation."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return Form(scale, sliding_window, softcap, s_aux)
