"""Writes to the paged cache: every token lies where its slot says, and nothing else changes."""

import pytest
import torch

cache_writes = pytest.importorskip("worker.kernels.gpu.cache_writes")
FP8 = torch.float8_e4m3fn
SLOTS = [35, -1, 2, 16]  # one token is written nowhere
BLOCKS, BLOCK_SIZE = 3, 16


@pytest.mark.parametrize("kv_heads", [2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 16), (24, 16)])
def test_tokens_are_written_to_their_slots(kv_heads: int, dtype: torch.dtype, key_dim: int, value_dim: int) -> None:
    torch.manual_seed(0)
    new = [torch.randn(kv_heads, len(SLOTS), dim).transpose(0, 1) for dim in (key_dim, value_dim)]
    new[1][0, 0, 0] = 1e6  # beyond fp8's range
    pools = [torch.ones(BLOCKS, kv_heads, BLOCK_SIZE, dim).to(dtype).transpose(0, 1) for dim in (key_dim, value_dim)]
    scales = [0.5 + torch.rand(kv_heads) if dtype == FP8 else None for _ in pools]
    cache_writes.write(*new, torch.tensor(SLOTS), *pools, tuple(scales))
    for pool, scale, numbers in zip(pools, scales, new, strict=True):
        expected = torch.ones(BLOCKS * BLOCK_SIZE, kv_heads, numbers.shape[-1]).to(dtype)
        for at, slot in enumerate(SLOTS):
            if slot >= 0:
                own = numbers[at] if scale is None else (numbers[at] / scale[:, None]).clamp(-448, 448)
                expected[slot] = own.to(dtype)
        by_slot = pool.permute(1, 2, 0, 3).flatten(0, 1)
        assert torch.equal(by_slot.float(), expected.float())
