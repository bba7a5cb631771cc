"""Norms and the addition before them, against float64."""

import pytest
import torch

from tests.worker.kernels.gpu.references import DTYPES, assert_rounded, normed

norms = pytest.importorskip("worker.kernels.gpu.norms")
EPS = 1e-5


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 896), (3, 128), (5, 14336 // 5)])
def test_the_sum_is_rounded_and_normed(dtype: torch.dtype, num_rows: int, width: int) -> None:
    hidden, change = torch.randn(2, num_rows, width).to(dtype)
    weight = torch.randn(width).to(dtype)
    added, result = norms.add_norm(hidden, change, weight, EPS)
    assert torch.equal(added, (hidden.float() + change.float()).to(dtype))
    assert_rounded(result, normed(added, weight, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_without_an_addition_leaves_its_input(dtype: torch.dtype) -> None:
    rows, weight = torch.randn(3, 96).to(dtype), torch.randn(96).to(dtype)
    before = rows.clone()
    assert_rounded(norms.rms_norm(rows, weight, EPS), normed(rows, weight, EPS))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_change_can_be_normed_too_as_in_gemma(dtype: torch.dtype) -> None:
    """Gemma's weights count from 1: they are held as 1 + w in float32, where bf16 would round w away."""
    hidden, change = torch.randn(2, 3, 80).to(dtype)
    stored = 0.002 * torch.randn(2, 80)
    own, weight = 1 + stored
    added, result = norms.add_norm(hidden, change, weight, EPS, (own, 1e-3))
    first = normed(change, 1 + stored[0].double(), 1e-3)
    spacing = torch.finfo(dtype).eps
    torch.testing.assert_close(added.double(), hidden.double() + first, atol=2 * spacing, rtol=spacing)
    assert_rounded(result, normed(added, 1 + stored[1].double(), EPS))


def test_rows_may_lie_apart() -> None:
    wide = torch.randn(2, 3, 100)
    hidden, change = wide[..., :72]
    weight = torch.randn(72)
    added, result = norms.add_norm(hidden, change, weight, EPS)
    assert torch.equal(added, hidden + change)
    assert_rounded(result, normed(added, weight, EPS))
    assert_rounded(norms.rms_norm(hidden, weight, EPS), normed(hidden, weight, EPS))


def test_no_rows_are_no_launch() -> None:
    empty = torch.empty(0, 64)
    assert [part.shape for part in norms.add_norm(empty, empty, torch.ones(64), EPS)] == [empty.shape] * 2
