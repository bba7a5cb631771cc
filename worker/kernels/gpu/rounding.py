"""Rows to fp8 with a scale each, for products of fp8 numbers."""

import torch
import triton
import triton.language as tl

from worker.kernels.elementwise import FP8, FP8_MAX, SMALLEST_PEAK
from worker.kernels.gpu.runtime import begin, overlap, saturated, warps_for


def to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See elementwise.to_fp8(): rows [T, in] -> e4m3 [T, in] and scales, float32 [T, 1]. The row stride is free."""
    num_rows, width = rows.shape
    out = torch.empty(num_rows, width, dtype=FP8, device=rows.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=rows.device)
    if num_rows:
        block = triton.next_power_of_2(width)
        to_fp8_kernel[(num_rows,)](
            rows,
            out,
            scales,
            width,
            rows.stride(0),
            SMALLEST_PEAK,
            LARGEST=FP8_MAX,
            BLOCK=block,
            num_warps=warps_for(block),
            **overlap(rows.device),
        )
    return out, scales


@triton.jit
def to_fp8_kernel(
    rows, out, scales, width, stride, smallest, LARGEST: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr
):
    """One program a row, which it holds in registers between the maximum and the division."""
    begin(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_inside = columns < width
    numbers = tl.load(rows + row * stride + columns, mask=is_inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(numbers), axis=0), smallest) / LARGEST
    rounded = saturated(numbers / scale).to(out.dtype.element_ty)
    tl.store(out + row * width + columns, rounded, mask=is_inside)
    tl.store(scales + row, scale)
