"""A PackedTensor stands in a module's weight: loading keeps it packed, computing sees the dense numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worker.kernels.packed.encodings import WEIGHTS
from worker.kernels.packed.tensor import PackedTensor

KINDS = ("dense", "int8", "int4", "fp8", "fp8_blocks")


def packed(kind: str, seed: int = 0) -> PackedTensor:
    return PackedTensor(WEIGHTS[kind](torch.randn(256, 256, generator=torch.Generator().manual_seed(seed))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_inference", [False, True])
def test_a_layer_computes_with_the_numbers_of_its_packed_weight(kind: str, is_inference: bool) -> None:
    weight, inputs = packed(kind), torch.randn(3, 256)
    layer = nn.Linear(256, 256, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    with torch.inference_mode(is_inference):
        assert torch.allclose(layer(inputs), inputs @ weight.weights.dense().T, atol=1e-4)
        rows = F.embedding(torch.tensor([[3, 7]]), layer.weight)
        assert torch.equal(rows[0], weight.weights.dense()[[3, 7]])
        expert = torch.stack([weight, packed(kind, 1)]).transpose(-1, -2)[1]  # as grouped products take one
        assert torch.allclose(inputs @ expert, inputs @ packed(kind, 1).weights.dense().T, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_loading_does_keeps_it_packed(kind: str) -> None:
    first, second = packed(kind), packed(kind, 1)
    both = torch.cat([torch.stack([first, second]), torch.stack([second, first])], dim=1)
    assert isinstance(both, PackedTensor)
    assert both.shape == (2, 512, 256)
    halves = both.chunk(2, dim=1)
    assert all(isinstance(half, PackedTensor) for half in halves)
    assert torch.equal(halves[1][0].dense(), second.dense())
    moved = first[...].to(device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(moved, PackedTensor)
    assert isinstance(first.t(), PackedTensor)
    assert first.t().t().shape == (256, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_module_multiplies_in_the_new_type(kind: str) -> None:
    layer = nn.Linear(256, 256)
    layer.weight = nn.Parameter(packed(kind), requires_grad=False)
    layer = layer.to(torch.bfloat16)
    assert isinstance(layer.weight, PackedTensor)
    assert layer(torch.randn(2, 256).bfloat16()).dtype == torch.bfloat16
