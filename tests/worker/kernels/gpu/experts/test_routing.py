"""The choice of experts, what is between their products, and their sum, against torch."""

import math
from dataclasses import replace

import pytest
import torch

from tests.worker.interpreter import rounds_as_a_gpu
from tests.worker.kernels.gpu.references import DTYPES, assert_rounded
from worker.kernels.experts.activation import Activation
from worker.kernels.gpu.experts.between import activated_outputs, weighted_sum
from worker.runners.parts.routers import Router

__all__ = ["rounds_as_a_gpu"]
SOFTMAX = Router(lambda inputs: inputs, 3, "softmax")
GROUPS = replace(SOFTMAX, num_groups=4, num_chosen_groups=2)
ROUTERS = {
    "softmax": SOFTMAX,
    "as they are": replace(SOFTMAX, renormalizes=False),
    "best groups": replace(GROUPS, renormalizes=False, scaling=16.0),
    "sigmoid": replace(
        GROUPS, scores="sigmoid", correction=torch.linspace(-0.5, 0.5, 60), group_scores="two largest", scaling=2.5
    ),
}


@pytest.fixture(autouse=True)
def right_rounding(rounds_as_a_gpu: None) -> None:
    """For every test of this file."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROUTERS)
def test_the_kernel_chooses_and_weighs_as_torch_does(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = torch.stack([torch.randperm(60) for _ in range(5)]).mul(0.1).to(dtype)  # no two of a token are equal
    chosen, weights = ROUTERS[name].by_kernel(logits)
    expected, of_expected = ROUTERS[name].by_torch(logits.float())
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(weights, of_expected, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_a_token_of_nan_chooses_experts_that_there_are_and_leaves_others_alone() -> None:
    logits = torch.randn(2, 60)
    alone = SOFTMAX.by_kernel(logits[1:])
    logits[0] = float("nan")
    chosen, weights = SOFTMAX.by_kernel(logits)
    assert int(chosen.min()) >= 0 and int(chosen.max()) < 60 and weights[0].isnan().all()
    assert torch.equal(chosen[1], alone[0][0]) and torch.equal(weights[1], alone[1][0])


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation",
    [
        Activation(),
        Activation("gelu_tanh"),
        Activation(alternates=True, limit=7.0, alpha=1.702, shift=1.0),
        Activation("gelu", alternates=True, limit=1.0),
    ],
    ids=lambda activation: f"{activation.name} {activation.limit}",
)
def test_gates_are_limited_activated_and_multiply(activation: Activation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs = (5 * torch.randn(3, 2 * 72)).to(dtype)
    found, expected = activated_outputs(outputs, activation), activation(outputs.double())
    if dtype == torch.float32:
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    else:
        assert_rounded(found, expected)


def test_nan_stays_nan_between_limits() -> None:
    outputs = torch.tensor([[math.nan, 1.0, 1.0, math.nan, 1.0, 1.0]])
    found = activated_outputs(outputs, Activation(alternates=True, limit=7.0))
    assert found.isnan().tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_added_by_their_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs, weights = torch.randn(4, 3, 1100).to(dtype), torch.rand(4, 3)
    out = torch.empty(4, 1100, dtype=dtype)
    weighted_sum(outputs, weights, out)
    assert_rounded(out, (outputs.double() * weights.double()[..., None]).sum(dim=1))
