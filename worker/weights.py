"""Linear layers in the form that the machine reads fastest. All take [T, in] and give [T, out]."""

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from worker.quantized import GROUP, Int4Linear, Int8Linear

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


def fused_linear(modules: Seq[Any], quantize: str | None = None) -> Linear:
    """One product for several linears that read the same input; their outputs lie side by side.

    `quantize` is "int8" or "int4"; int4 falls back to int8 where the width is not a multiple of its groups.
    """
    if modules[0].weight.device.type != "cpu":
        return shared_linear(modules)
    weight = torch.cat([module.weight.detach() for module in modules])
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    bias = torch.cat(biases) if biases else None
    if quantize == "int4" and weight.shape[1] % GROUP == weight.shape[0] % GROUP == 0:
        return Int4Linear(weight, bias)
    if quantize is not None:
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
    weight = torch.cat([module.weight.detach() for module in modules])
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    start = 0
    for module in modules:
        stop = start + len(module.weight)
        module.weight.data = weight[start:stop]
        start = stop
    return PlainLinear(weight, torch.cat(biases) if biases else None)


def drop_weights(modules: Seq[Any]) -> None:
    """Free what has been packed elsewhere; the modules cannot run any more."""
    for module in modules:
        module.weight = None
        module.bias = None
