"""Rows rounded to fp8: bit by bit as torch rounds them."""

import pytest
import torch

from tests.worker.kernels.gpu.references import DTYPES
from worker.kernels.elementwise import FP8, fp8_rounding, to_fp8

rounding = pytest.importorskip("worker.kernels.gpu.rounding")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 14336 // 5), (3, 80)])
def test_each_row_is_scaled_by_its_largest_number(dtype: torch.dtype, num_rows: int, width: int) -> None:
    torch.manual_seed(0)
    rows = (torch.randn(num_rows, width + 8) * torch.tensor([[1e-3], [1.0], [1e4]])[:num_rows]).to(dtype)[:, :width]
    (got, scales), (expected, expected_scales) = rounding.to_fp8(rows), to_fp8(rows)
    assert got.dtype == FP8 and scales.shape == (num_rows, 1)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))
    assert (got.float().abs().amax(dim=1) == 448).all()


def test_a_row_of_zeros_stays_one() -> None:
    got, scales = rounding.to_fp8(torch.zeros(1, 16))
    assert not got.float().any() and scales.isfinite().all()


def test_no_rows_are_no_launch() -> None:
    assert [part.shape for part in rounding.to_fp8(torch.empty(0, 16))] == [(0, 16), (0, 1)]


def test_a_cpu_rounds_by_torch() -> None:
    assert fp8_rounding(torch.device("cpu")) is to_fp8
