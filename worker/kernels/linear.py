"""Linear layers in the layout that the machine reads fastest. All take [T, in] and return [T, out]."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from worker.kernels.available import has_triton
from worker.kernels.packed.encodings import WEIGHTS
from worker.kernels.packed.weights import Weights
from worker.kernels.torch_seams import reorder_weight, reordered_product

PACK_BATCH = 64  # rows that the layout is tuned for; products with other numbers of rows use it as well


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


def parts_of(linear: object) -> Iterator[object]:
    """A linear, and those that it is made of."""
    yield linear
    inner = (getattr(linear, name, None) for name in ("linear", "few_rows", "many_rows"))
    for part in (*getattr(linear, "linears", ()), *inner):
        if part is not None:
            yield from parts_of(part)


def has_kernels(device: torch.device) -> bool:
    """True where our Triton kernels compute products: on NVIDIA's GPUs, as they hold some of its assembler."""
    return device.type == "cuda" and torch.version.hip is None and has_triton()


def kernel_linear(weights: Weights, bias: torch.Tensor | None, *, for_few_rows: bool = False) -> Linear:
    """A product by our Triton kernels; see ProductLinear. Needs has_kernels()."""
    from worker.kernels.tuning import ProductLinear

    return ProductLinear(weights, bias, for_few_rows=for_few_rows)


def dense_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """Weights as they are on a GPU: by our kernels where they may be faster, else by torch."""
    if has_kernels(weight.device) and weight.dtype in (torch.bfloat16, torch.float16) and weight.is_contiguous():
        return kernel_linear(WEIGHTS["dense"](weight), bias)
    return PlainLinear(weight, bias)


def tune_products(linears: Seq[object], device: torch.device, table: Path | None, *, is_exact: bool = False) -> None:
    """Measure how each of the products is computed fastest; `table` keeps that for the next start.

    From here on, products of packed weights on a CPU may round their inputs, unless `is_exact`.
    """
    if has_kernels(device):
        from worker.kernels.tuning import tune

        tune(linears, device, table)
    if device.type == "cpu":
        from worker.kernels.packed.choice import choose_ways

        choose_ways(linears, table, is_exact=is_exact)


class PackedLinear:
    """Weights reordered once into oneDNN's blocked layout: twice as fast on a CPU, for one row as for many."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.packed = reorder_weight(weight, PACK_BATCH)
        self.bias = bias
        self.bind()

    def bind(self) -> None:
        """Find the operator: of a product that was made before, too."""
        self._multiply = reordered_product()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._multiply(inputs, self.packed, self.bias, "none", [], "")


def can_pack(dtype: torch.dtype) -> bool:
    """True if this build of torch has packed products of this type on this processor. Computes one to find out."""
    weight = torch.eye(16, dtype=dtype)
    try:
        return torch.equal(PackedLinear(weight, None)(weight), weight)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def joined(modules: Seq[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights of several linear layers, stacked along the outputs, and their biases."""
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return torch.cat([module.weight.detach() for module in modules]), torch.cat(biases) if biases else None


def drop_weights(modules: Seq[Any]) -> None:
    """Free weights that are packed elsewhere. The modules can no longer run."""
    for module in modules:
        del module.weight, module.bias  # compressed-tensors refuses to replace a tensor by None
        module.weight = module.bias = None
