"""Layers that keep something else than keys and values of one dtype: latents alone, or with index keys in bytes."""

import mmap

import pytest
import torch

from worker.state.kept_blocks import KeptBlocks, table_bytes
from worker.state.kv_cache import KVCache, LayerShape, pool_bytes

CPU = torch.device("cpu")
LATENTS, INDEXED = LayerShape(1, 40, 0), LayerShape(1, 40, 12, torch.uint8)


@pytest.mark.parametrize(("shape", "expected"), [(LATENTS, 80), (INDEXED, 92), (LayerShape(2, 8, 8), 64)])
def test_bytes_of_a_token(shape: LayerShape, expected: int) -> None:
    assert shape.token_bytes(torch.bfloat16) == expected
    assert pool_bytes([shape], 4096, torch.bfloat16) == expected * 4096  # whole pages


@pytest.mark.parametrize("is_kept", [False, True])
def test_blocks_of_such_layers_are_moved_wiped_and_given_back(is_kept: bool) -> None:
    shapes = [LATENTS, INDEXED]
    kept = None
    if is_kept:
        kept = KeptBlocks(mmap.mmap(-1, table_bytes(8) + pool_bytes(shapes, 8 * 16, torch.bfloat16)), 8)
    cache = KVCache(shapes, 8, 16, torch.bfloat16, CPU, capacity=8, kept=kept)
    assert cache.values[0].shape == (1, 8, 16, 0) and cache.values[1].dtype == torch.uint8
    for pool in cache.keys + cache.values:
        pool.copy_(torch.arange(8)[:, None, None].expand(pool.shape[1:]))
    cache.move({6: 1})
    cache.wipe([2])
    for pool in (*cache.keys, cache.values[1]):
        assert [int(block.max()) for block in pool[0]] == [0, 6, 0, 3, 4, 5, 6, 7]
    cache.resize(4, [])
    assert cache.pool.num_blocks == 4 and cache.keys[0][0, 3].min() == 3
