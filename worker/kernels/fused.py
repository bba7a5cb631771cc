"""One matrix product for several linear layers that read the same input."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Any

import torch

from worker.kernels.experts.layer import Experts
from worker.kernels.linear import Linear, dense_linear, drop_weights, joined
from worker.kernels.packed.dense import dense_cpu_linear
from worker.kernels.packed.linear import is_packed, joined_linear
from worker.kernels.quantized import Quantization


class PackedBefore:
    """Products that a runner made before, given out in the same order, in the place of a Quantization."""

    def __init__(self, products: Iterable[Any]) -> None:
        self._left = iter(products)

    def take(self) -> Linear:
        linear: Linear = next(self._left)
        return linear

    def take_tensor(self) -> torch.Tensor:
        tensor: torch.Tensor = next(self._left)
        return tensor

    def take_experts(self) -> Experts:
        experts: Experts = next(self._left)
        return experts

    def for_head(self) -> "PackedBefore":
        return self


def fused_linear(modules: Seq[Any], quantization: Quantization | PackedBefore | None = None) -> Linear:
    """The product of all `modules`, their outputs side by side.

    Quantized weights replace those of the modules, which can no longer run. Weights whose widths the quantization does
    not take stay as they are.
    """
    if isinstance(quantization, PackedBefore):
        return quantization.take()
    if any(is_packed(module) for module in modules):
        return joined_linear(modules)
    num_out, num_in = sum(len(module.weight) for module in modules), modules[0].weight.shape[1]
    if quantization is not None and quantization.fits(num_out, num_in):
        linear = quantization.linear(*joined(modules))
        drop_weights(modules)  # now, not when the model is complete: a GPU may have no room for both
        return linear
    if modules[0].weight.device.type != "cpu":
        return shared_storage_linear(modules)
    return dense_cpu_linear(*joined(modules))


def shared_storage_linear(modules: Seq[Any]) -> Linear:
    """A linear whose weights the modules use too, as slices: nothing is held twice."""
    if len(modules) == 1:
        return dense_linear(modules[0].weight.detach(), getattr(modules[0], "bias", None))
    weight, bias = joined(modules)
    start = 0
    for module in modules:
        stop = start + len(module.weight)
        module.weight.data = weight[start:stop]
        start = stop
    return dense_linear(weight, bias)
