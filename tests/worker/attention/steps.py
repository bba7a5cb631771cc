"""Steps of sequences whose keys and values are random, over pools in a GPU's order of memory."""

import torch

from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.runners.probe import probe_sequence
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

CPU = torch.device("cpu")
SHAPE = LayerShape(num_kv_heads=2, key_dim=16, value_dim=16)
HEADS = 4
SPEC = AttentionSpec(scale=0.25)


def gpu_order(cache: KVCache) -> KVCache:
    """The cache with its pools in a GPU's order of memory."""
    cache.keys, cache.values = (
        [pool.transpose(0, 1).contiguous().transpose(0, 1) for pool in pools] for pools in (cache.keys, cache.values)
    )
    return cache


def new_cache(dtype: torch.dtype = torch.float32, num_blocks: int = 32) -> KVCache:
    """Random numbers where nothing was written, and for fp8 scales of its own for each head."""
    cache = gpu_order(KVCache([SHAPE], num_blocks, 16, dtype, CPU))
    torch.manual_seed(0)
    for pool in (cache.keys[0], cache.values[0]):
        pool.copy_(torch.randn(pool.shape).to(dtype))
    for scales in (cache.key_scales[0], cache.value_scales[0]):
        if scales is not None:
            scales.copy_(torch.tensor([0.5, 2.0]))
    return cache


def rows_of(cache: KVCache, places: list[tuple[int, int]]) -> list[ScheduledSequence]:
    """Rows (first position, tokens), with blocks in random places."""
    rows, free = [], torch.randperm(cache.pool.num_free).tolist()
    for start, num_tokens in places:
        sequence = probe_sequence([1] * (start + num_tokens))
        sequence.block_ids = [free.pop() for _ in range(cache.num_blocks_for(start + num_tokens))]
        sequence.num_computed = start
        rows.append(ScheduledSequence(sequence, num_tokens))
    return rows


def attended(attention: PagedAttention, num_tokens: int, spec: AttentionSpec = SPEC, size: float = 1) -> torch.Tensor:
    """The output of the same random queries, after the same random keys and values, `size` times as large, are written.

    As transformers hands them over: [1, heads, T, dim] each.
    """
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, heads, num_tokens, SHAPE.key_dim) for heads in (HEADS, 2, 2))
    return attention.forward(0, query, size * key, size * value, spec)
