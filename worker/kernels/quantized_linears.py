"""Linear layers with quantized weights: torch's products, on a CPU, and of fp8 numbers on a GPU."""

import torch
from torch.nn import functional as F
from torch.nn.functional import ScalingType, scaled_mm

from worker.kernels.elementwise import FP8, fp8_rounding
from worker.kernels.linear import Linear
from worker.kernels.torch_seams import int4_product, int8_product, pack_int4
from worker.kernels.weights import FEW_ROWS, Weights

MAX_KERNEL_ROWS_INT8 = 20  # measured: above this, converting the weights first is faster
MAX_KERNEL_ROWS_INT4 = 32
GROUP = 32  # input weights that share one int4 scale
FP8_MULTIPLE = 16  # both widths are multiples of it, or the GPU has no product


class Int8Linear:
    """Symmetric int8, one scale per output row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        scale = weight.float().abs().amax(dim=1).clamp_(min=1e-8) / 127
        self.weight = (weight.float() / scale[:, None]).round_().to(torch.int8)  # [out, in]
        self.scale = scale.to(weight.dtype)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT8:
            output = int8_product(inputs.contiguous(), self.weight, self.scale)
        else:
            output = F.linear(inputs, self.weight.to(inputs.dtype)).mul_(self.scale)
        return output if self.bias is None else output.add_(self.bias)


class Int4Linear:
    """Asymmetric int4 in groups of GROUP inputs, kept twice: in the kernel's layout, and as nibbles to convert."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        num_out, num_in = weight.shape
        grouped = weight.float().view(num_out, num_in // GROUP, GROUP)
        low, high = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_(min=1e-8)
        codes = ((grouped - low) / scale).round_().clamp_(0, 15).to(torch.int32).view(num_out, num_in)
        zero = low + 8 * scale  # the kernel computes (code - 8) * scale + zero
        self.scales_and_zeros = torch.cat([scale, zero], dim=-1).transpose(0, 1).contiguous().to(weight.dtype)
        self.packed = pack_int4(codes)
        self.nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT4:
            output = int4_product(inputs.contiguous(), self.packed, GROUP, self.scales_and_zeros)
        else:
            output = F.linear(inputs, self.converted())
        return output if self.bias is None else output.add_(self.bias)

    def converted(self) -> torch.Tensor:
        """The weights that the codes stand for, [out, in]."""
        num_out = len(self.nibbles)
        scale, zero = self.scales_and_zeros.transpose(0, 1).contiguous().unbind(-1)  # [out, groups]
        codes = torch.stack([self.nibbles & 15, self.nibbles >> 4], dim=-1).view(num_out, -1, GROUP)
        weight = torch.addcmul((zero - 8 * scale)[..., None], codes.to(self.scales_and_zeros.dtype), scale[..., None])
        return weight.view(num_out, -1)


class FewOrManyRows:
    """One linear up to FEW_ROWS rows, where rounding inputs to fp8 costs a kernel and gains nothing; another beyond."""

    def __init__(self, few_rows: Linear, many_rows: Linear) -> None:
        self.few_rows = few_rows
        self.many_rows = many_rows

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.few_rows(inputs) if len(inputs) <= FEW_ROWS else self.many_rows(inputs)


class Fp8Linear:
    """e4m3 with one scale per output row. Inputs are rounded to e4m3 too, with one scale per token; returns bf16."""

    def __init__(self, weights: Weights, bias: torch.Tensor | None) -> None:
        """`weights` of kind fp8. Both widths are multiples of FP8_MULTIPLE."""
        assert weights.scales is not None
        self.weight = weights.codes.view(FP8)  # [out, in]
        self.scale = weights.scales.view(1, -1)
        self.bias = None if bias is None else bias.bfloat16()
        self.to_fp8 = fp8_rounding(weights.codes.device)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows, scale = self.to_fp8(inputs)
        return scaled_mm(
            rows,
            self.weight.t(),
            scale,
            ScalingType.RowWise,
            self.scale,
            ScalingType.RowWise,
            bias=self.bias,
            output_dtype=torch.bfloat16,
            use_fast_accum=True,  # shorter sums, where the tensor cores have them
        )
