"""Linear layers in the form that the machine reads fastest. All take [T, in] and give [T, out]."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from worker.kernels.elementwise import Elementwise
from worker.kernels.quantized import FP8_MULTIPLE, GROUP, Fp8Linear, Int4Linear, Int8Linear

MAX_DEVIATION = 0.02  # of the largest number of a product; bf16 rounds to 0.004
PACK_BATCH = 64  # rows that the packing is tuned for; its layout serves others as well


class Linear(Protocol):
    """A matrix product with fixed weights."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


class PlainLinear:
    """The weights as they are, for devices that need no packing."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.weight, self.bias)


class PackedLinear:
    """Weights reordered once into oneDNN's blocked layout: twice as fast on a CPU, at one row as at many."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_BATCH)
        self.bias = bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._multiply(inputs, self.packed, self.bias, "none", [], "")
        return output


def fused_linear(modules: Seq[Any], quantize: str | None = None, elementwise: Elementwise | None = None) -> Linear:
    """One product for several linears that read the same input; their outputs lie side by side.

    `quantize` is "int8", "int4" or "fp8"; int4 falls back to int8 where the width is not a multiple of its groups, and
    fp8 to the weights as they are. `elementwise` is what fp8 rounds its inputs with.
    """
    num_out, num_in = sum(len(module.weight) for module in modules), modules[0].weight.shape[1]
    if quantize == "fp8" and num_out % FP8_MULTIPLE == num_in % FP8_MULTIPLE == 0:
        linear = Fp8Linear(*joined(modules), elementwise or Elementwise())
        drop_weights(modules)  # at once: a GPU may have no room for both
        return linear
    if modules[0].weight.device.type != "cpu":
        return shared_linear(modules)
    weight, bias = joined(modules)
    if quantize == "int4" and weight.shape[1] % GROUP == weight.shape[0] % GROUP == 0:
        return Int4Linear(weight, bias)
    if quantize in ("int8", "int4"):
        return Int8Linear(weight, bias)
    return PackedLinear(weight, bias) if can_pack(weight.dtype) else PlainLinear(weight, bias)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch, on this processor, has packed products of this type: found out by doing one."""
    weight = torch.eye(16, dtype=dtype)
    try:
        return torch.equal(PackedLinear(weight, None)(weight), weight)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def shared_linear(modules: Seq[Any]) -> Linear:
    """A PlainLinear whose weights the modules keep using, as slices of it: nothing is held twice."""
    if len(modules) == 1:
        return PlainLinear(modules[0].weight.detach(), getattr(modules[0], "bias", None))
    weight, bias = joined(modules)
    start = 0
    for module in modules:
        stop = start + len(module.weight)
        module.weight.data = weight[start:stop]
        start = stop
    return PlainLinear(weight, bias)


def joined(modules: Seq[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Their weights one above the other, and their biases."""
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return torch.cat([module.weight.detach() for module in modules]), torch.cat(biases) if biases else None


def drop_weights(modules: Seq[Any]) -> None:
    """Free what has been packed elsewhere; the modules cannot run any more."""
    for module in modules:
        del module.weight, module.bias  # compressed-tensors refuses None in the place of a tensor
        module.weight = module.bias = None


class Product:
    """A Linear that several layers of a model share: computed for the first, and kept until the last has come."""

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


class Lent(nn.Module):
    """Stands where a linear layer of the model was, and computes with weights that are kept in another form."""

    def __init__(self, product: Product, start: int, stop: int) -> None:
        super().__init__()
        self._product = product
        self._columns = start, stop

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._product.part(inputs, *self._columns)


def lent(linear: Linear, modules: Seq[Any]) -> list[Lent]:
    """What the linear layers `modules`, whose weights `linear` holds one above the other, can be replaced by."""
    product, stands_in, start = Product(linear, len(modules)), [], 0
    for module in modules:
        stands_in.append(Lent(product, start, start + module.out_features))
        start += module.out_features
    return stands_in


@dataclass(frozen=True, slots=True)
class Swap:
    """A linear layer of a model that another stands in for."""

    owner: nn.Module
    name: str
    module: nn.Linear
    product: Product

    def undo(self) -> None:
        setattr(self.owner, self.name, self.module)

    def pack(self) -> None:
        """Compute from the form that is read fastest, if that gives the same; free the layer's own weights then."""
        weight, bias = self.module.weight.detach(), self.module.bias
        packed = PackedLinear(weight, bias)
        inputs = torch.linspace(-1, 1, 3 * weight.shape[1], dtype=weight.dtype).view(3, -1)
        expected = self.product.linear(inputs).float()
        if (packed(inputs).float() - expected).abs().max() <= MAX_DEVIATION * expected.abs().max():
            self.product.linear = packed
            drop_weights([self.module])


def swap_linears(part: nn.Module) -> list[Swap]:
    """Put a stand-in, which has no weights to be looked at, for every plain linear layer in a part of a model."""
    plain = [
        (owner, name, module)
        for owner in part.modules()
        for name, module in owner.named_children()
        if type(module) is nn.Linear and type(module.weight.data) is torch.Tensor  # not packed by torchao
    ]
    swaps = []
    for owner, name, module in plain:
        product = Product(PlainLinear(module.weight.detach(), module.bias), 1)
        setattr(owner, name, Lent(product, 0, module.out_features))
        swaps.append(Swap(owner, name, module, product))
    return swaps
