"""The attention by torch, which also serves where there is no Triton: pools in a GPU's order of memory, fp8 pools."""

import pytest
import torch

from tests.worker.attention.steps import CPU, SHAPE, attended, new_cache, rows_of
from worker.attention.paged import PagedAttention
from worker.state.kv_cache import FP8, KVCache

PLACES = [(40, 1), (17, 1), (20, 30), (0, 5)]


def test_the_order_of_memory_has_no_effect() -> None:
    gpu, cpu = new_cache(), KVCache([SHAPE], 32, 16, torch.float32, CPU)
    for name in ("keys", "values"):
        getattr(cpu, name)[0].copy_(getattr(gpu, name)[0])
    rows = rows_of(gpu, PLACES)
    outputs = [attended(PagedAttention(cache, rows, CPU), 37) for cache in (gpu, cpu)]
    torch.testing.assert_close(*outputs)
    assert torch.equal(gpu.keys[0], cpu.keys[0]) and torch.equal(gpu.values[0], cpu.values[0])


def test_an_fp8_pool_gives_nearly_what_its_numbers_give_in_float32() -> None:
    small = new_cache(FP8)
    rows = rows_of(small, PLACES)
    exact = new_cache()
    for name in ("key", "value"):
        (pool,), (scales,) = getattr(small, f"{name}s"), getattr(small, f"{name}_scales")
        getattr(exact, f"{name}s")[0].copy_(pool.float() * scales[:, None, None, None])
    outputs = [attended(PagedAttention(cache, rows, CPU), 37) for cache in (small, exact)]
    error = (outputs[0] - outputs[1]).abs().max()
    assert 0 < error < 0.2  # what this step wrote was rounded to three bits


@pytest.mark.parametrize("size", [1e4, float("inf")])
def test_numbers_beyond_the_range_of_fp8_become_its_largest(size: float) -> None:
    cache = new_cache(FP8)
    (row,) = rows_of(cache, [(0, 5)])
    attended(PagedAttention(cache, [row], CPU), 5, size=size)
    written = cache.keys[0].float()[:, row.sequence.block_ids[0], :5]
    assert written.abs().max() == 448 and not written.isnan().any()


def test_blocks_of_an_fp8_pool_are_wiped() -> None:
    cache = new_cache(FP8)
    cache.wipe([3, 5])
    assert not cache.keys[0].float()[:, [3, 5]].any() and cache.keys[0].float()[:, 4].any()
