"""Gated activations against float64."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.worker.kernels.gpu.references import DTYPES, assert_rounded

activations = pytest.importorskip("worker.kernels.gpu.activations")
EXACT = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 14336 // 5), (3, 64)])
def test_the_gate_is_activated_and_multiplies(dtype: torch.dtype, activation: str, num_rows: int, width: int) -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(num_rows, 2 * width + 8)).to(dtype)[:, : 2 * width]
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_rounded(activations.gated(gate_up, activation), EXACT[activation](gate) * up)


def test_the_two_forms_of_gelu_differ() -> None:
    gate_up = torch.full((1, 2), 2.0)
    exact, by_tanh = (activations.gated(gate_up, name).item() for name in ("gelu", "gelu_tanh"))
    assert exact != by_tanh and exact == pytest.approx(by_tanh, abs=1e-2)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, in the interpreter
def test_large_gates_neither_overflow_nor_become_nan() -> None:
    gates = torch.tensor([-3e38, -200.0, 0.0, 200.0])
    gate_up = torch.cat([gates, torch.ones(4)])[None]
    for activation in EXACT:
        result = activations.gated(gate_up, activation)[0].tolist()
        assert result == [0.0, 0.0, 0.0, 200.0], activation
