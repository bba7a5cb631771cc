"""Modules that replace the linear layers of a model and compute with weights kept in another layout."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import nn

from worker.kernels.linear import Linear, PlainLinear, drop_weights
from worker.kernels.packed.dense import dense_cpu_linear
from worker.kernels.packed.linear import is_packed, joined_linear
from worker.kernels.packed.tensor import PackedTensor

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


def swapped_linears(part: nn.Module) -> list[Linear]:
    """The products that replace layers and experts under `part`."""
    found = [module.shared.linear for module in part.modules() if isinstance(module, LinearProxy)]
    experts = [getattr(module, "experts_product", None) for module in part.modules()]
    return [*found, *(linear for product in experts for linear in getattr(product, "linears", ()))]


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
        if isinstance(weight, PackedTensor):  # its product is packed already
            drop_weights([self.module])
            return
        packed = dense_cpu_linear(weight, bias)
        inputs = torch.linspace(-1, 1, 3 * weight.shape[1], dtype=weight.dtype).view(3, -1)
        expected = self.shared.linear(inputs).float()
        if (packed(inputs).float() - expected).abs().max() <= MAX_DEVIATION * expected.abs().max():
            self.shared.linear = packed
            drop_weights([self.module])


def swap_linears(part: nn.Module, *, packed_only: bool = False) -> list[LinearSwap]:
    """Replace every `nn.Linear` with plain or packed weights under `part` by a proxy without weights."""
    kinds = (PackedTensor,) if packed_only else (torch.Tensor, PackedTensor)  # and no subclass of torchao's
    plain = [
        (owner, name, module)
        for owner in part.modules()
        for name, module in owner.named_children()
        if type(module) is nn.Linear and type(module.weight.data) in kinds
    ]
    swaps = []
    for owner, name, module in plain:
        linear = joined_linear([module]) if is_packed(module) else PlainLinear(module.weight.detach(), module.bias)
        shared = SharedLinear(linear, 1)
        setattr(owner, name, LinearProxy(shared, 0, module.out_features))
        swaps.append(LinearSwap(owner, name, module, shared))
    return swaps
