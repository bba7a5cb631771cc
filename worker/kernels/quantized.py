"""Quantized weights: fewer bytes to read per token.

int8 and int4 are for a CPU, and activations stay bf16. Few rows are bound by memory and use torch's kernels; many rows
are bound by arithmetic, and there it is faster to widen the weights to bf16 once per call. fp8 is for a GPU, whose
tensor cores multiply it: activations are rounded as well.
"""

import torch
from torch.nn import functional as F
from torch.nn.functional import ScalingType, scaled_mm

from worker.kernels.elementwise import Elementwise, to_fp8

MAX_KERNEL_ROWS_INT8 = 20  # measured: beyond this, widening the weights first is faster
MAX_KERNEL_ROWS_INT4 = 32
GROUP = 32  # input weights that share one int4 scale
FP8_MULTIPLE = 16  # of both widths, which the GPU's product asks for
FP8_CAPABILITY = (8, 9)


class Int8Linear:
    """Symmetric int8, one scale per output row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        scale = weight.float().abs().amax(dim=1).clamp_(min=1e-8) / 127
        self.weight = (weight.float() / scale[:, None]).round_().to(torch.int8)  # [out, in]
        self.scale = scale.to(weight.dtype)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT8:
            output = torch._weight_int8pack_mm(inputs.contiguous(), self.weight, self.scale)
        else:
            output = F.linear(inputs, self.weight.to(inputs.dtype)).mul_(self.scale)
        return output if self.bias is None else output.add_(self.bias)


class Int4Linear:
    """Asymmetric int4 in groups of GROUP inputs: kept twice, once in the kernel's layout and once to be widened."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        num_out, num_in = weight.shape
        grouped = weight.float().view(num_out, num_in // GROUP, GROUP)
        low, high = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_(min=1e-8)
        codes = ((grouped - low) / scale).round_().clamp_(0, 15).to(torch.int32).view(num_out, num_in)
        zero = low + 8 * scale  # the kernel computes (code - 8) * scale + zero
        self.scales_and_zeros = torch.cat([scale, zero], dim=-1).transpose(0, 1).contiguous().to(weight.dtype)
        self.packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        self.nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT4:
            output = torch._weight_int4pack_mm_for_cpu(inputs.contiguous(), self.packed, GROUP, self.scales_and_zeros)
        else:
            output = F.linear(inputs, self.widened())
        return output if self.bias is None else output.add_(self.bias)

    def widened(self) -> torch.Tensor:
        """The weights these codes stand for, [out, in]."""
        num_out = len(self.nibbles)
        scale, zero = self.scales_and_zeros.transpose(0, 1).contiguous().unbind(-1)  # [out, groups]
        codes = torch.stack([self.nibbles & 15, self.nibbles >> 4], dim=-1).view(num_out, -1, GROUP)
        widened = torch.addcmul((zero - 8 * scale)[..., None], codes.to(self.scales_and_zeros.dtype), scale[..., None])
        return widened.view(num_out, -1)


class Fp8Linear:
    """e4m3 with one scale per output row; inputs are rounded to it too, with one scale per token. Gives bf16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, elementwise: Elementwise) -> None:
        """Both widths are multiples of FP8_MULTIPLE."""
        self.weight, scale = to_fp8(weight)  # [out, in]
        self.scale = scale.view(1, -1)
        self.bias = None if bias is None else bias.bfloat16()
        self.to_fp8 = elementwise.to_fp8

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
            use_fast_accum=True,  # sums in fewer bits where the tensor cores can
        )


def check_fp8(device: torch.device) -> None:
    """Raises ValueError where torch has no such product: found out by asking the GPU, then by doing one."""
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
        found, needed = (".".join(map(str, version)) for version in (capability, FP8_CAPABILITY))
        raise ValueError(
            f"OMNI_QUANTIZE=fp8 needs a GPU of compute capability {needed} or higher; this one has {found}."
        )
    ones = torch.ones(FP8_MULTIPLE, FP8_MULTIPLE, dtype=torch.bfloat16, device=device)
    try:
        Fp8Linear(ones, None, Elementwise())(ones)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"OMNI_QUANTIZE=fp8 does not run on {device} with this torch: {error}") from error
