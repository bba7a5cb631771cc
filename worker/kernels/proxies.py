"""Modules that replace the linear layers of a model and compute with weights kept in another layout."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import nn

from worker.kernels.linear import Linear, PackedLinear, PlainLinear, drop_weights

MAX_DEVIATION = 0.02  # of a product's largest number; rounding to bf16 makes 0.004


class SharedLinear:
    """A Linear shared by several layers: computed when the first one asks, kept until the last one has asked."""

    def __init__(self, linear: Linear, num_parts: int) -> None:
        self.linear = linear
        self._num_parts = num_parts
        self._num_left = 0
        self._inputs: torch.Tensor | None = None
        self._outputs: torch.Tensor | None = None

    def part(self, inputs: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Columns `[start, stop)` of the product with `inputs` [..., in]."""
        if self._outputs is None or self._inputs is not inputs:
            self._inputs, self._num_left = inputs, self._num_parts
            outputs = self.linear(inputs.flatten(0, -2))
            self._outputs = outputs.view(*inputs.shape[:-1], outputs.shape[-1])
        part = self._outputs[..., start:stop]
        self._num_left -= 1
        if self._num_left == 0:
            self._inputs = self._outputs = None
        return part


class LinearProxy(nn.Module):
    """Replaces one linear layer of a model: some columns of a SharedLinear. It has no weights of its own."""

    def __init__(self, shared: SharedLinear, start: int, stop: int) -> None:
        super().__init__()
        self.shared = shared
        self._columns = start, stop

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.shared.part(inputs, *self._columns)


def proxies(linear: Linear, modules: Seq[nn.Linear]) -> list[LinearProxy]:
    """One proxy for each of `modules`, whose weights `linear` holds stacked in this order."""
    shared, found, start = SharedLinear(linear, len(modules)), [], 0
    for module in modules:
        found.append(LinearProxy(shared, start, start + module.out_features))
        start += module.out_features
    return found


@dataclass(frozen=True, slots=True)
class LinearSwap:
    """A linear layer of a model, and the SharedLinear behind the proxy that replaces it."""

    owner: nn.Module
    name: str
    module: nn.Linear
    shared: SharedLinear

    def undo(self) -> None:
        setattr(self.owner, self.name, self.module)

    def pack(self) -> None:
        """Compute with packed weights and free the layer's own, unless the packed product deviates."""
        weight, bias = self.module.weight.detach(), self.module.bias
        packed = PackedLinear(weight, bias)
        inputs = torch.linspace(-1, 1, 3 * weight.shape[1], dtype=weight.dtype).view(3, -1)
        expected = self.shared.linear(inputs).float()
        if (packed(inputs).float() - expected).abs().max() <= MAX_DEVIATION * expected.abs().max():
            self.shared.linear = packed
            drop_weights([self.module])


def swap_linears(part: nn.Module) -> list[LinearSwap]:
    """Replace every plain `nn.Linear` under `part` by a proxy without weights."""
    plain = [
        (owner, name, module)
        for owner in part.modules()
        for name, module in owner.named_children()
        if type(module) is nn.Linear and type(module.weight.data) is torch.Tensor  # torchao's are a subclass
    ]
    swaps = []
    for owner, name, module in plain:
        shared = SharedLinear(PlainLinear(module.weight.detach(), module.bias), 1)
        setattr(owner, name, LinearProxy(shared, 0, module.out_features))
        swaps.append(LinearSwap(owner, name, module, shared))
    return swaps
