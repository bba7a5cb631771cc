"""Attention of one group: torch's fused kernel, or matrix products where those are faster or must be."""

import torch
from torch.nn import functional as F

from worker.attention.groups import AttentionGroup
from worker.attention.spec import AttentionSpec

PIECE_QUERIES = 128  # queries of a prompt chunk in one matrix product
MAX_SCORES = 2**23  # numbers in one score matrix


def attend_group(
    query: torch.Tensor,
    group: AttentionGroup,
    key: torch.Tensor,
    value: torch.Tensor,
    spec: AttentionSpec,
) -> torch.Tensor:
    """Queries [rows, heads, dim] over keys and values [kv_heads, batch, num_keys, dim] -> [rows, heads, value_dim].

    Query heads that share a KV head are folded into the query length, so that their keys are read once.
    """
    kv_heads, batch = key.shape[:2]
    folded = query.reshape(batch, group.num_queries, kv_heads, -1, query.shape[-1]).permute(2, 0, 1, 3, 4)
    num_shared = folded.shape[3]
    folded = folded.reshape(kv_heads, batch, group.num_queries * num_shared, query.shape[-1])
    mask = group.mask(spec.window, num_shared, query.dtype)
    if not spec.has_plain_scores:
        output = explicit_attention(folded, key, value, mask, spec)
    elif prefers_products(folded):
        output = product_attention(folded, key, value, mask, spec.scale, num_shared)
    else:
        output = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=spec.scale)
    output = output.view(kv_heads, batch, group.num_queries, num_shared, value.shape[-1]).permute(1, 2, 0, 3, 4)
    return output.reshape(batch * group.num_queries, kv_heads * num_shared, value.shape[-1])


def prefers_products(folded: torch.Tensor) -> bool:
    """True where two bf16 matrix products are faster than torch's fused kernel: on a CPU, except for a few queries."""
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
    """Softmax attention, [kv_heads, batch, rows, dim] each, by matrix products whose scores fit the CPU's cache."""
    kv_heads, batch, num_rows, _ = query.shape
    num_keys = key.shape[2]
    flat_key, flat_value = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
    query = query.flatten(0, 1)
    if mask is None:
        mask = query.new_zeros(1, 1, 1)
    elif batch > 1:
        mask = mask.repeat(kv_heads, 1, 1)
    step = num_rows
    if mask.shape[1] == num_rows > num_shared:  # a prompt chunk: its earlier pieces do not attend to its later keys
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, spec: AttentionSpec
) -> torch.Tensor:
    """Attention written out, [kv_heads, batch, rows, dim] each, for scores that torch's kernels do not compute."""
    scores = query @ key.transpose(2, 3) * spec.scale
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    if mask is not None:
        scores = scores + mask
    if spec.sinks is None:
        return scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype) @ value
    kv_heads, batch, num_rows, _ = query.shape
    own = spec.sinks.to(scores.dtype).view(kv_heads, 1, -1)  # rows are, for each query, the heads that share a KV head
    sinks = own.repeat(1, batch, num_rows // own.shape[-1]).unsqueeze(-1)
    weights = torch.cat([scores, sinks], dim=-1).softmax(dim=-1, dtype=torch.float32)
    return weights[..., :-1].to(query.dtype) @ value
