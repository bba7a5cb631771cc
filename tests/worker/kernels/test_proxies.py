"""A model whose linear layers are replaced by proxies still computes the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.kernels.linear import PackedLinear, PlainLinear, can_pack, drop_weights
from worker.kernels.packed.dense import NarrowLinear, PairsLinear
from worker.kernels.proxies import LinearProxy, proxies, swap_linears
from worker.runners.base import ModelRunner
from worker.runners.hybrid import HybridRunner

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch packs no weights")


class Block(nn.Module):
    """Three linear layers that read the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 4), nn.Linear(8, 12), nn.Linear(8, 2, bias=False)


def proxies_in(model: nn.Module) -> Iterator[LinearProxy]:
    return (module for module in model.modules() if isinstance(module, LinearProxy))


@pytest.mark.parametrize("family", ["gpt_neox", "qwen3_next"])
def test_linear_layers_of_a_model_that_runs_by_itself_are_packed(family: str, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(family))
    runner = bench.engine.runner
    assert type(runner) in (ModelRunner, HybridRunner)
    found = list(proxies_in(bench.loaded.model))
    assert found and all(isinstance(one.shared.linear, PackedLinear | PairsLinear | NarrowLinear) for one in found)
    assert not [module for module in bench.loaded.model.modules() if type(module) is nn.Linear]
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


def test_a_model_that_accesses_its_weights_directly_keeps_them(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearProxy, "forward", lambda self, inputs: inputs @ self.weight)
    bench = Bench(model_folder("gpt_neox"))
    assert not list(proxies_in(bench.loaded.model))
    bench.add("r", prompt_of(9))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(9))


def test_packed_weights_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block()
    swaps = swap_linears(block)
    monkeypatch.setattr("worker.kernels.proxies.dense_cpu_linear", lambda *_: lambda inputs: torch.ones(len(inputs), 1))
    for swap in swaps:
        swap.pack()
        assert isinstance(swap.shared.linear, PlainLinear) and swap.module.weight is not None


def test_one_product_serves_all_layers_that_read_the_same_input() -> None:
    block = Block()
    layers = [block.first, block.second]
    joined = PlainLinear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))
    calls = []

    def counted(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return joined(inputs)

    first, second = proxies(counted, layers)
    for _ in range(2):
        inputs = torch.randn(2, 3, 8)
        assert torch.allclose(first(inputs), block.first(inputs), atol=1e-6)
        assert torch.allclose(second(inputs), block.second(inputs), atol=1e-6)
    other = torch.randn(2, 3, 8)  # before the second has read the one before
    first(inputs)
    assert torch.allclose(second(other), block.second(other), atol=1e-6)
    assert calls == [6] * 4


class Packed(torch.Tensor):
    """Like torchao's: a subclass of tensor, with which only its own code can compute."""


def test_a_layer_with_packed_weights_is_left_alone() -> None:
    part = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    part[1].weight = nn.Parameter(torch.ones(8, 8).as_subclass(Packed), requires_grad=False)
    assert [swap.name for swap in swap_linears(part)] == ["0"]


class KeptElsewhere(dict[str, Any]):
    """Like compressed-tensors': None cannot replace a tensor."""

    def __setitem__(self, name: str, value: Any) -> None:
        if self.get(name) is not None and value is None:
            raise TypeError("must be Tensor, not NoneType")
        super().__setitem__(name, value)


def test_weights_are_dropped_even_where_none_cannot_replace_a_tensor() -> None:
    module = nn.Linear(8, 8)
    module._parameters = KeptElsewhere(module._parameters)
    drop_weights([module])
    assert module.weight is None and module.bias is None
