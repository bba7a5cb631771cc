"""Products with bf16 or float32 weights on a CPU, kept in the layout of the faster kernel."""

import torch

from worker.kernels.linear import Linear, PackedLinear, PlainLinear, can_pack
from worker.kernels.native import NoKernels, processor_features
from worker.kernels.packed.layout import PANEL, kernels_for


class PairsLinear:
    """bf16 weights for our C kernel, worker/kernels/dense_products.c.

    oneDNN reaches the same share of the processor with many rows, but with 2 to 64 it multiplies and reads memory by
    turns. Its kernels for AMX multiply several times as fast; there it is kept.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Raises NoKernels."""
        self.num_out, self.num_in = weight.shape
        if weight.dtype != torch.bfloat16 or self.num_out % PANEL or self.num_in % PANEL:
            raise NoKernels("it multiplies bf16, in widths that are multiples of 16")
        if not kernels_for(weight.dtype).can_multiply_pairs() or "amx_bf16" in processor_features().split():
            raise NoKernels("the processor multiplies no pairs, or tiles")
        panels = weight.reshape(-1, PANEL, self.num_in // 2, 2)
        self.panels = panels.transpose(1, 2).contiguous()  # [out / PANEL, in / 2, PANEL, 2]
        self.bias = None if bias is None else bias.contiguous()
        self.bind()

    def bind(self) -> None:
        """Find the kernel: of a product that was made before, too."""
        self._multiply = kernels_for(torch.bfloat16).multiply_dense

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.contiguous()
        output = inputs.new_empty(len(inputs), self.num_out)
        bias = None if self.bias is None else self.bias.data_ptr()
        self._multiply(
            self.panels.data_ptr(), bias, inputs.data_ptr(), len(inputs), self.num_in, self.num_out, output.data_ptr()
        )
        return output


class NarrowLinear:
    """Weights of a few outputs, as they are: of the gate that weighs what all tokens share."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Raises NoKernels."""
        self.num_out, self.num_in = weight.shape
        if self.num_out >= PANEL or self.num_in % PANEL:
            raise NoKernels("it has too many outputs, or a width that is no multiple of 16")
        self.weight, self.bias = weight.contiguous(), None if bias is None else bias.contiguous()
        self.bind()

    def bind(self) -> None:
        """See PairsLinear."""
        self._multiply = kernels_for(self.weight.dtype).multiply_narrow

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.contiguous()
        output = inputs.new_empty(len(inputs), self.num_out)
        bias = None if self.bias is None else self.bias.data_ptr()
        self._multiply(
            self.weight.data_ptr(), bias, inputs.data_ptr(), len(inputs), self.num_in, self.num_out, output.data_ptr()
        )
        return output


def dense_cpu_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The product with a copy of `weight` [out, in] in the layout that is read fastest, if there is one."""
    for kind in (PairsLinear, NarrowLinear):
        try:
            return kind(weight, bias)
        except NoKernels:
            continue
    return PackedLinear(weight, bias) if can_pack(weight.dtype) else PlainLinear(weight, bias)
