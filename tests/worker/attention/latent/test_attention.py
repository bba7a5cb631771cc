"""Attention over paged latents against all keys and values written out, in steps of decodes and chunks."""

from unittest.mock import patch

import pytest
import torch

from tests.worker.attention.steps import CPU, gpu_order, rows_of
from worker.attention.latent import dense
from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.spec import LatentSpec
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

RANK, ROTATED, INDEX, HEADS = 12, 4, 8, 3
SPEC = LatentSpec(scale=0.3, rank=RANK)
PLACES = [(40, 1), (38, 1), (17, 1), (20, 30), (0, 5)]
NUM_TOKENS = sum(num_tokens for _, num_tokens in PLACES)


def new_cache(index_width: int = 0, dtype: torch.dtype = torch.float32) -> KVCache:
    """Random numbers where nothing was written."""
    cache = KVCache([LayerShape(1, RANK + ROTATED, index_width)], 32, 16, dtype, CPU)
    torch.manual_seed(0)
    cache.keys[0].copy_(torch.randn(cache.keys[0].shape))
    return cache


def written_out(cache: KVCache, rows: list[ScheduledSequence], queries: torch.Tensor) -> torch.Tensor:
    """One query after the other, over its sequence's latents in order."""
    outputs, at = [], 0
    for row in rows:
        latents = cache.keys[0][0, row.sequence.block_ids].flatten(0, 1).double()
        for position in range(row.start, row.start + row.num_inputs):
            seen = latents[: position + 1]
            weights = (SPEC.scale * queries[at].double() @ seen.T).softmax(dim=-1)
            outputs.append(weights @ seen[:, :RANK])
            at += 1
    return torch.stack(outputs).float()


@pytest.mark.parametrize("max_scores", [2**23, 100])
def test_a_step_attends_as_written_out(max_scores: int) -> None:
    cache = gpu_order(new_cache()) if max_scores == 100 else new_cache()
    rows = rows_of(cache, PLACES)
    queries, latents = torch.randn(NUM_TOKENS, HEADS, RANK + ROTATED), torch.randn(NUM_TOKENS, RANK + ROTATED)
    attention = LatentAttention(cache, rows, CPU)
    attention.write(0, latents, None)
    with patch.object(dense, "MAX_SCORES", max_scores):
        found = attention.attend(0, queries, None, SPEC)
    torch.testing.assert_close(found, written_out(cache, rows, queries))
    own = cache.keys[0][0, rows[-1].sequence.block_ids[0], :5]
    assert torch.equal(own, latents[-5:])  # what was compared is what this step has written


def test_index_keys_are_written_beside_the_latents() -> None:
    cache = new_cache(index_width=INDEX)
    rows = rows_of(cache, PLACES)
    keys = torch.randn(NUM_TOKENS, INDEX)
    LatentAttention(cache, rows, CPU).write(0, torch.randn(NUM_TOKENS, RANK + ROTATED), keys)
    block_ids = rows[3].sequence.block_ids
    assert torch.equal(cache.values[0][0, block_ids].flatten(0, 1)[20:50], keys[3:33])
