"""Rotation and cache writes against float64, for pools in the memory order of a GPU."""

from dataclasses import dataclass

import pytest
import torch

from tests.worker.kernels.gpu.references import DTYPES, assert_rounded, normed

rotary = pytest.importorskip("worker.kernels.gpu.rotary")
FP8, FP8_MAX = torch.float8_e4m3fn, 448.0
BLOCKS, BLOCK_SIZE = 3, 16
EPS = 1e-6


@dataclass
class Case:
    """Random inputs of `len(slots)` tokens, and what the kernel must make of them."""

    heads: int
    kv_heads: int
    dim: int
    rotated: int
    slots: list[int]
    dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype | None = None
    has_norms: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        num_tokens, width = len(self.slots), (self.heads + 2 * self.kv_heads) * self.dim
        self.qkv = torch.randn(num_tokens, width + 8).to(self.dtype)[:, :width]
        angles = 10 * torch.rand(num_tokens, self.rotated // 2).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.weights = torch.rand(2, self.dim).to(self.dtype) + 0.5
        pool = torch.zeros(2, BLOCKS, self.kv_heads, BLOCK_SIZE, self.dim).to(self.kv_dtype or self.dtype)
        self.keys, self.values = pool.transpose(1, 2)
        self.scales = 0.01 + 0.1 * torch.rand(2, self.kv_heads) if self.kv_dtype == FP8 else (None, None)

    def run(self) -> None:
        norms = rotary.HeadNorms(*self.weights, EPS) if self.has_norms else None
        rotary.rotate_and_write(
            self.qkv, self.cos, self.sin, norms, torch.tensor(self.slots), self.keys, self.values,
            tuple(self.scales), self.heads, self.kv_heads,
        )  # fmt: skip

    def expected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, [T, heads, dim] in float64. Call before run()."""
        parts = self.qkv.double().unflatten(1, (-1, self.dim))
        query, key, value = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.has_norms:
            query, key = normed(query, self.weights[0], EPS), normed(key, self.weights[1], EPS)
        return self.turned(query), self.turned(key), value

    def turned(self, heads: torch.Tensor) -> torch.Tensor:
        half = self.rotated // 2
        first, second, rest = heads.split([half, half, self.dim - self.rotated], dim=-1)
        cos, sin = self.cos[:, None, :half].double(), self.sin[:, None, :half].double()
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)

    def queries(self) -> torch.Tensor:
        return self.qkv.unflatten(1, (-1, self.dim))[:, : self.heads]

    def stored(self, pool: torch.Tensor) -> torch.Tensor:
        """The pool's numbers at the slots, [T, kv_heads, dim]."""
        return pool.float().flatten(1, 2)[:, self.slots].transpose(0, 1).to(self.dtype)


LLAMA = {"heads": 4, "kv_heads": 2, "dim": 64, "rotated": 64}
ODD = {"heads": 9, "kv_heads": 3, "dim": 80, "rotated": 80}  # neither heads nor numbers are powers of two
PART = {"heads": 3, "kv_heads": 1, "dim": 128, "rotated": 96}  # as Phi-4-mini


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("shape", [LLAMA, ODD, PART])
def test_queries_stay_and_keys_and_values_go_to_their_slots(
    dtype: torch.dtype, has_norms: bool, shape: dict[str, int]
) -> None:
    case = Case(**shape, slots=[5, 37, 4], dtype=dtype, has_norms=has_norms)
    query, key, value = case.expected()
    case.run()
    assert_rounded(case.queries(), query)
    assert_rounded(case.stored(case.keys), key)
    assert torch.equal(case.stored(case.values).double(), value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [LLAMA, PART])
def test_an_fp8_cache_holds_numbers_over_their_heads_scale_and_limits_them(
    dtype: torch.dtype, shape: dict[str, int]
) -> None:
    case = Case(**shape, slots=[20], dtype=dtype, kv_dtype=FP8, has_norms=True)
    case.scales[:, 0] = 1e-3  # numbers beyond 0.448 do not fit
    query, key, value = case.expected()
    case.run()
    assert_rounded(case.queries(), query)
    for pool, scales, exact in ((case.keys, case.scales[0], key), (case.values, case.scales[1], value)):
        wanted = (exact / scales[:, None].double()).clamp(-FP8_MAX, FP8_MAX)
        stored = pool.float().flatten(1, 2)[:, 20].double()
        assert stored.abs().max() == FP8_MAX
        torch.testing.assert_close(stored, wanted[0], atol=2**-10, rtol=2**-4)


def test_tokens_without_a_slot_are_not_written_and_nothing_else_is() -> None:
    case = Case(**LLAMA, slots=[5, -1, -1])
    whole = case.keys, case.values
    case.keys, case.values = (pool[:, 1:] for pool in whole)  # a write to slot -1 would fall into the block before
    query, _, _ = case.expected()
    case.run()
    assert_rounded(case.queries(), query)
    for pool in whole:
        written = pool.flatten(1, 2).abs().sum(dim=(0, 2)).nonzero().flatten()
        assert written.tolist() == [BLOCK_SIZE + 5]


def test_padding_rows_may_share_a_slot() -> None:
    case = Case(**LLAMA, slots=[5, 32, 32])
    _, key, _ = case.expected()
    case.run()
    assert_rounded(case.stored(case.keys)[:1], key[:1])


def test_the_pools_may_have_any_order_of_memory() -> None:
    case = Case(**LLAMA, slots=[17])
    _, key, value = case.expected()
    case.keys, case.values = case.keys.contiguous(), case.values.transpose(0, 2).contiguous().transpose(0, 2)
    case.run()
    assert_rounded(case.stored(case.keys), key)
    assert torch.equal(case.stored(case.values).double(), value)


def test_a_pool_of_more_than_two_thousand_million_numbers_is_addressed() -> None:
    """The fourth block lies 2**32 + 256 numbers from the first, which are 256 in 32 bits."""
    case = Case(1, 1, 16, 16, slots=[4 * BLOCK_SIZE])
    _, key, _ = case.expected()
    stride = 2**30 + 64
    room = torch.zeros(4 * stride + 1024, dtype=FP8)  # only the pages that are written to take memory
    case.keys = room.as_strided((1, 5, BLOCK_SIZE, 16), (16, stride, 16, 1))
    case.values = torch.zeros(1, 5, BLOCK_SIZE, 16)
    case.scales = (torch.ones(1), None)
    case.run()
    stored = room[4 * stride : 4 * stride + 16].double()
    torch.testing.assert_close(stored, key[0, 0], atol=2**-10, rtol=2**-4)
