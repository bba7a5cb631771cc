"""Comparisons with results of float64."""

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def assert_rounded(got: torch.Tensor, exact: torch.Tensor) -> None:
    """`got` is `exact` (float64) computed in float32 and rounded once to its own dtype."""
    torch.testing.assert_close(got.double(), exact, atol=2e-6, rtol=torch.finfo(got.dtype).eps * 0.6)


def normed(rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The root mean square norm over the last dimension, in float64."""
    rows = rows.double()
    return rows * (rows.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight.double()
