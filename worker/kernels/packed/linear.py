"""Products with packed weights, [T, in] -> [T, out], by the fastest kernels of the device."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch

from worker.kernels.linear import Linear, has_kernels, kernel_linear
from worker.kernels.packed.by_chunks import ByChunks
from worker.kernels.packed.cpu import cpu_linear
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights, can_join, joined_weights
from worker.kernels.quantized_linears import FewOrManyRows, Fp8Linear, can_multiply_fp8

SMALLEST_GROUP = 16  # that tensor cores multiply


def packed_linear(weights: Weights, bias: torch.Tensor | None) -> Linear:
    """The product with one matrix."""
    if weights.order is not None:
        return Reordered(weights, bias)
    if has_kernels(weights.codes.device) and has_kernel(weights):
        if can_multiply_fp8(weights):
            return FewOrManyRows(kernel_linear(weights, bias, for_few_rows=True), Fp8Linear(weights, bias))
        return kernel_linear(weights, bias)
    return cpu_linear(weights, bias) if weights.codes.device.type == "cpu" else ByChunks(weights, bias)


def has_kernel(weights: Weights) -> bool:
    """True for forms that our Triton kernels read: of models in 16 bits, in groups of a power of two."""
    group = weights.group or SMALLEST_GROUP
    is_16_bit = weights.dtype in (torch.bfloat16, torch.float16)
    return is_16_bit and group >= SMALLEST_GROUP and group & (group - 1) == 0 and weights.codes.is_contiguous()


class Reordered:
    """A product whose matrix takes its inputs in another order."""

    def __init__(self, weights: Weights, bias: torch.Tensor | None) -> None:
        assert weights.order is not None
        self.order = weights.order
        self.linear = packed_linear(replace(weights, order=None), bias)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs[:, self.order])


class SideBySide:
    """Several products with the same inputs, their outputs side by side."""

    def __init__(self, linears: Seq[Linear]) -> None:
        self.linears = linears

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([linear(inputs) for linear in self.linears], dim=-1)


def joined_linear(modules: Seq[torch.nn.Linear]) -> Linear:
    """The product of all `modules`, of which some or all have packed weights.

    Neighbours of equal form are joined; their modules go on with slices of what is joined, so that nothing is held
    twice.
    """
    groups: list[list[torch.nn.Linear]] = []
    for module in modules:
        if (
            groups
            and can_join([weights_of(other) for other in (*groups[-1], module)])
            and same_bias(groups[-1][0], module)
        ):
            groups[-1].append(module)
        else:
            groups.append([module])
    linears = [packed_linear(share(group), joined_bias(group)) for group in groups]
    return linears[0] if len(linears) == 1 else SideBySide(linears)


def share(modules: Seq[torch.nn.Linear]) -> Weights:
    """The joined weights; each module gets its rows of them."""
    found = [weights_of(module) for module in modules]
    if len(found) == 1:
        return found[0]
    joined, start = joined_weights(found), 0
    for module, own in zip(modules, found, strict=True):
        rows = joined.rows(start, start + own.num_out)
        module.weight = torch.nn.Parameter(PackedTensor(rows), requires_grad=False)
        start += own.num_out
    return joined


def weights_of(module: torch.nn.Linear) -> Weights:
    """A module's weights in our form."""
    weight = module.weight.detach()
    if isinstance(weight, PackedTensor) and not weight.is_turned:
        return weight.weights
    return Weights("dense", weight.dtype, weight.shape[1], weight)


def same_bias(first: torch.nn.Linear, second: torch.nn.Linear) -> bool:
    return (first.bias is None) == (second.bias is None)


def joined_bias(modules: Iterable[torch.nn.Linear]) -> torch.Tensor | None:
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return torch.cat(biases) if biases else None


def is_packed(module: torch.nn.Module) -> bool:
    """True for a linear layer with packed weights."""
    return isinstance(getattr(module, "weight", None), PackedTensor)
