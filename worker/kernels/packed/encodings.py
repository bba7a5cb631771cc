"""Quantizes dense weights: the forms of OMNI_QUANTIZE."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch.nn import functional as F

from worker.kernels.elementwise import FP8, FP8_MAX, SMALLEST_PEAK, to_fp8
from worker.kernels.packed.weights import SCALE_BLOCK, Weights, base

Encoded = tuple[torch.Tensor, ...]  # codes, scales, and offsets if there are any
GROUP = 128  # columns that share a scale of int4 on a GPU; half as many where they would not fill two groups
CPU_GROUP = 32  # the same on a CPU, whose kernels round 32 inputs together anyway
CHUNK_BYTES = 1 << 28  # of float32 numbers at a time, while weights are quantized
SMALLEST_SCALE = 1e-8


def dense_weights(weight: torch.Tensor) -> Weights:
    return Weights("dense", weight.dtype, weight.shape[1], weight)


def int8_weights(weight: torch.Tensor) -> Weights:
    """Symmetric, one scale per row."""
    codes, scales = by_chunks(weight, encode_int8)
    return Weights("int8", weight.dtype, weight.shape[1], codes, scales)


def encode_int8(rows: torch.Tensor) -> Encoded:
    scale = rows.float().abs().amax(dim=1).div_(127).clamp_(min=SMALLEST_SCALE)
    return rows.float().div_(scale[:, None]).round_().to(torch.int8), scale


def fp8_weights(weight: torch.Tensor) -> Weights:
    """e4m3, one scale per row."""
    codes, scales = by_chunks(weight, to_fp8)
    return Weights("fp8", weight.dtype, weight.shape[1], codes.view(torch.uint8), scales.squeeze(1))


def int4_weights(weight: torch.Tensor, group: int, *, with_offsets: bool = True) -> Weights:
    """`group` columns share a scale, and with offsets the code of zero: then their range fits tightly."""
    num_in = weight.shape[1]
    half = -(-num_in // (2 * group)) * group
    smallest = max(SMALLEST_SCALE, torch.finfo(weight.dtype).tiny)

    def encode(rows: torch.Tensor) -> Encoded:
        padded = F.pad(rows.float(), (0, 2 * half - num_in)).view(len(rows), -1, group)
        if with_offsets:
            low, high = padded.amin(dim=-1).clamp_(max=0), padded.amax(dim=-1).clamp_(min=0)
            scale = (high - low).div_(15).clamp_(min=smallest).to(weight.dtype)
            zero = (-low / scale.float()).round_().clamp_(0, 15)
        else:
            scale = padded.abs().amax(dim=-1).div_(7.5).clamp_(min=smallest).to(weight.dtype)
            zero = torch.full_like(scale, 8, dtype=torch.float32)
        codes = (padded / scale.float()[..., None]).round_().add_(zero[..., None]).clamp_(0, 15).to(torch.uint8)
        low_codes, high_codes = codes.view(len(rows), 2, half).unbind(1)
        return low_codes | high_codes << 4, scale, (zero + base(weight.dtype)).to(weight.dtype)

    codes, scales, offsets = by_chunks(weight, encode)
    return Weights("int4", weight.dtype, num_in, codes, scales, offsets if with_offsets else None, group)


def cpu_int4_weights(weight: torch.Tensor) -> Weights:
    """Groups of CPU_GROUP with a minimum each, which fits a range more tightly than a whole code of zero."""
    num_in = weight.shape[1]
    half = -(-num_in // (2 * CPU_GROUP)) * CPU_GROUP

    def encode(rows: torch.Tensor) -> Encoded:
        padded = F.pad(rows.float(), (0, 2 * half - num_in)).view(len(rows), -1, CPU_GROUP)
        minimum, high = padded.amin(dim=-1).to(weight.dtype), padded.amax(dim=-1)
        scale = (high - minimum.float()).div_(15).clamp_(min=SMALLEST_SCALE).to(weight.dtype)
        codes = (padded - minimum.float()[..., None]).div_(scale.float()[..., None]).round_().clamp_(0, 15)
        low_codes, high_codes = codes.to(torch.uint8).view(len(rows), 2, half).unbind(1)
        return low_codes | high_codes << 4, scale, minimum

    codes, scales, minimums = by_chunks(weight, encode)
    return Weights("int4", weight.dtype, num_in, codes, scales, None, CPU_GROUP, minimums)


def grouped_int4_weights(weight: torch.Tensor) -> Weights:
    """In groups of GROUP, or of half as many columns where a row would be padded."""
    return int4_weights(weight, GROUP // 2 if weight.shape[1] % (2 * GROUP) else GROUP)


def fp8_block_weights(weight: torch.Tensor) -> Weights:
    """e4m3, one scale per block of SCALE_BLOCK x SCALE_BLOCK."""
    num_out, num_in = weight.shape
    tall, wide = -(-num_out // SCALE_BLOCK), -(-num_in // SCALE_BLOCK)
    missing = (0, wide * SCALE_BLOCK - num_in, 0, tall * SCALE_BLOCK - num_out)
    blocks = F.pad(weight.float(), missing).view(tall, SCALE_BLOCK, wide, SCALE_BLOCK)
    scales = blocks.abs().amax(dim=(1, 3)).clamp_(min=SMALLEST_PEAK).div_(FP8_MAX)
    codes = (blocks / scales[:, None, :, None]).to(FP8).view(tall * SCALE_BLOCK, -1)[:num_out, :num_in]
    return Weights("fp8_blocks", weight.dtype, num_in, codes.contiguous().view(torch.uint8), scales)


def by_chunks(weight: torch.Tensor, encode: Callable[[torch.Tensor], Encoded]) -> Encoded:
    """`encode` applied to some rows at a time, its results stacked: a head in float32 would take gigabytes."""
    num_rows = max(1, CHUNK_BYTES // (4 * weight.shape[1]))
    chunks: Iterator[Encoded] = (encode(rows) for rows in torch.split(weight, num_rows))
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


# by kind; int4 in the groups and with the offsets that OMNI_QUANTIZE=int4 has on a GPU
WEIGHTS: Mapping[str, Callable[[torch.Tensor], Weights]] = MappingProxyType(
    {
        "dense": dense_weights,
        "int8": int8_weights,
        "int4": grouped_int4_weights,
        "fp8": fp8_weights,
        "fp8_blocks": fp8_block_weights,
    }
)
