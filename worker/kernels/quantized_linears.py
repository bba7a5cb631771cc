"""Linear layers whose weights and inputs are fp8 numbers, by torch."""

import torch
from torch.nn.functional import ScalingType, scaled_mm

from worker.kernels.elementwise import FP8, fp8_rounding
from worker.kernels.linear import Linear
from worker.kernels.packed.encodings import fp8_weights
from worker.kernels.packed.weights import FEW_ROWS, Weights

FP8_CAPABILITY = (8, 9)  # the first compute capability with fp8 tensor cores
FP8_MULTIPLE = 16  # both widths are multiples of it, or the GPU has no product


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
        self.scale = weights.scales.float().view(1, -1)
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


def can_multiply_fp8(weights: Weights) -> bool:
    """True for weights whose checkpoint is made for inputs in fp8, on a device with products of such numbers."""
    is_made_for_it = weights.kind == weights.inputs == "fp8" and weights.dtype == torch.bfloat16
    fits = weights.num_out % FP8_MULTIPLE == weights.num_in % FP8_MULTIPLE == 0
    return is_made_for_it and fits and not why_not_fp8(weights.codes.device)


def why_not_fp8(device: torch.device) -> str:
    """Why there is no product of fp8 numbers; empty if there is. Computes one to find out."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        return "the GPU has none"
    ones = torch.ones(FP8_MULTIPLE, FP8_MULTIPLE, dtype=torch.bfloat16, device=device)
    try:
        Fp8Linear(fp8_weights(ones), None)(ones)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return str(error)
    return ""
