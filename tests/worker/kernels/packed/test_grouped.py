"""Codes of checkpoints in our one form decode to what the checkpoint's form says."""

import pytest
import torch

from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.weights import can_join, joined_weights, stacked_weights

BITS = (4, 5, 6, 7, 8)


def codes_of(bits: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 1 << bits, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))


def spread(numbers: torch.Tensor, group: int, num_in: int) -> torch.Tensor:
    """One number per column."""
    return numbers.float().repeat_interleave(group, dim=-1)[..., :num_in]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("group", "num_in"), [(32, 96), (16, 64), (128, 256), (256, 512), (576, 576)])
def test_symmetric_codes_count_from_the_middle(bits: int, group: int, num_in: int) -> None:
    codes, scales = codes_of(bits, 6, num_in), torch.rand(6, -(-num_in // group), dtype=torch.float16)
    expected = (codes.float() - (1 << (bits - 1))) * spread(scales, group, num_in)
    assert torch.equal(grouped_weights(codes, scales, group, bits, torch.float32).dense(), expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_count_from_their_zeros(bits: int, dtype: torch.dtype) -> None:
    codes, scales, zeros = codes_of(bits, 6, 96), torch.rand(6, 3, dtype=torch.float16), codes_of(bits, 6, 3)
    expected = ((codes.float() - spread(zeros, 32, 96)) * spread(scales, 32, 96)).to(dtype)
    found = grouped_weights(codes, scales, 32, bits, dtype, zeros=zeros).dense()
    assert torch.allclose(found.float(), expected.float(), rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("bits", BITS)
def test_minimums_are_added(bits: int) -> None:
    codes, scales, minimums = codes_of(bits, 6, 96), torch.rand(6, 3).half(), -torch.rand(6, 3).half()
    expected = codes.float() * spread(scales, 32, 96) + spread(minimums, 32, 96)
    found = grouped_weights(codes, scales, 32, bits, torch.float32, minimums=minimums).dense()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_matrix_takes_inputs_in_its_order(bits: int) -> None:
    codes, scales, order = codes_of(bits, 6, 96), torch.rand(6, 3), torch.randperm(96)
    weights = grouped_weights(codes, scales, 32, bits, torch.float32, order=order)
    inputs = torch.randn(5, 96)
    in_own_order = grouped_weights(codes, scales, 32, bits, torch.float32).dense()
    assert torch.allclose(inputs[:, order] @ in_own_order.T, inputs @ weights.dense().T, atol=1e-4)


def test_weights_are_joined_and_stacked_like_matrices() -> None:
    first, second = (
        grouped_weights(codes_of(4, rows, 64), torch.rand(rows, 2), 32, 4, torch.float32) for rows in (6, 6)
    )
    other = grouped_weights(codes_of(5, 6, 64), torch.rand(6, 2), 32, 5, torch.float32)
    assert can_join([first, second])
    assert not can_join([first, other])
    assert torch.equal(joined_weights([first, second]).dense(), torch.cat([first.dense(), second.dense()]))
    assert torch.equal(stacked_weights([first, second]).dense(), torch.stack([first.dense(), second.dense()]))


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="codes of 9 bits cannot be read"):
        grouped_weights(codes_of(8, 2, 32), torch.ones(2, 1), 32, 9, torch.float32)
