"""Weights in e4m3 with scales, which several formats have: per matrix, per row, or per block of rows and columns."""

import math
from typing import Literal

import torch

from worker.kernels.elementwise import FP8
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import E8M0_BIAS, SCALE_BLOCK, Weights

BLOCK = (SCALE_BLOCK, SCALE_BLOCK)
Inputs = Literal["", "int8", "fp8"]


def scaled_fp8(
    weight: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
    *,
    block: tuple[int, int] = BLOCK,
    inputs: Inputs = "",
) -> torch.Tensor:
    """`weight` [..., out, in] times its scales: one per matrix, per row, or per `block` of rows and columns.

    Blocks that are not made of whole blocks of SCALE_BLOCK come back dense: no kernel knows others. Raises ValueError
    for scales of another shape.
    """
    if weight.dtype != FP8:
        raise ValueError(f"it is of type {str(weight.dtype).removeprefix('torch.')}, not float8_e4m3fn")
    *matrices, num_out, num_in = weight.shape
    num_matrices, scales = math.prod(matrices), numbers_of(scales)
    if scales.numel() in (num_matrices, num_matrices * num_out):
        rows = scales.reshape(*matrices, -1).expand(*matrices, num_out).contiguous()
        return PackedTensor(Weights("fp8", dtype, num_in, weight.view(torch.uint8), rows, inputs=inputs))
    tall, wide = block
    blocks = -(-num_out // tall), -(-num_in // wide)
    if scales.numel() != num_matrices * math.prod(blocks):
        raise ValueError(
            f"its scales of shape {list(scales.shape)} do not fit {list(weight.shape)} in blocks of {tall} x {wide}"
        )
    scales = scales.reshape(*matrices, *blocks)
    if tall % SCALE_BLOCK or wide % SCALE_BLOCK:
        return (weight.float() * spread(scales, tall, wide, num_out, num_in)).to(dtype)
    whole = -(-num_out // SCALE_BLOCK), -(-num_in // SCALE_BLOCK)
    scales = spread(scales, tall // SCALE_BLOCK, wide // SCALE_BLOCK, *whole).contiguous()
    return PackedTensor(Weights("fp8_blocks", dtype, num_in, weight.view(torch.uint8), scales, inputs=inputs))


def numbers_of(scales: torch.Tensor) -> torch.Tensor:
    """Scales in float32; bytes are exponents (e8m0)."""
    return torch.exp2(scales.float() - E8M0_BIAS) if scales.dtype == torch.uint8 else scales.float()


def spread(scales: torch.Tensor, tall: int, wide: int, num_out: int, num_in: int) -> torch.Tensor:
    """Each scale repeated over `tall` rows and `wide` columns, cut to [..., num_out, num_in]."""
    repeated = scales.repeat_interleave(tall, dim=-2)[..., :num_out, :]
    return repeated.repeat_interleave(wide, dim=-1)[..., :num_in]
