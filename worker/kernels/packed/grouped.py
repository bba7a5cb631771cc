"""Weights of integer codes, as GPTQ, AWQ, GGUF and others have them."""

from functools import partial
from typing import Literal

import torch
from torch.nn import functional as F

from worker.kernels.packed.weights import Weights, base

GROUPS = (128, 64, 32)  # larger ones of 4-bit codes are split, or padding would be as large as a row


def grouped_weights(
    codes: torch.Tensor,
    scales: torch.Tensor,
    group: int,
    bits: int,
    dtype: torch.dtype,
    *,
    zeros: torch.Tensor | None = None,
    minimums: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
    inputs: Literal["", "int8", "fp8"] = "",
) -> Weights:
    """Weights of integer codes as checkpoints have them; from here on only kernels know the layout.

    `codes` uint8 [..., out, in], 0 to 2^bits - 1, each `group` columns with a scale [..., out, groups]. They decode to
    (code - zero) * scale, zeros [..., out, groups] being 2^(bits - 1) if not given; or to code * scale + minimum.
    Scales and minimums keep their type. Raises ValueError for other bits than 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"codes of {bits} bits cannot be read; 2 to 8 can.")
    num_in = codes.shape[-1]
    if bits == 4 and group > max(GROUPS):
        smaller = next((size for size in GROUPS if group % size == 0), group)
        repeat = partial(torch.repeat_interleave, repeats=group // smaller, dim=-1)
        group, scales = smaller, repeat(scales)
        zeros = None if zeros is None else repeat(zeros)
        minimums = None if minimums is None else repeat(minimums)
    if bits == 4:
        half = -(-num_in // (2 * group)) * group
        missing = 2 * half // group - scales.shape[-1]
        codes = F.pad(codes, (0, 2 * half - num_in), value=8)
        packed = codes[..., :half] | codes[..., half:] << 4
        pad = partial(F.pad, pad=(0, missing))
        offsets = None if zeros is None else pad((zeros.float() + base(dtype)).to(dtype))
        minimums = None if minimums is None else pad(minimums)
        return Weights("int4", dtype, num_in, packed, pad(scales), offsets, group, minimums, order, inputs)
    middle = 1 << (bits - 1)
    signed = (codes ^ 128 if bits == 8 else codes - middle).view(torch.int8)  # bytes wrap around
    if minimums is not None and bits < 8:
        signed = codes.view(torch.int8)
    elif minimums is not None:
        minimums = minimums.float() + middle * scales.float()
    elif zeros is not None:
        minimums = (middle - zeros.float()) * scales.float()
    if minimums is None and group >= num_in:
        return Weights("int8", dtype, num_in, signed, scales[..., 0], order=order, inputs=inputs)
    return Weights("int8", dtype, num_in, signed, scales, None, group, minimums, order, inputs)
