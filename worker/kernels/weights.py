"""The weights of a product in the forms that GPU kernels read: dense, or quantized with scales."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch.nn import functional as F

from worker.kernels.elementwise import FP8, FP8_MAX, SMALLEST_PEAK, to_fp8

WeightKind = Literal["dense", "int8", "int4", "fp8", "fp8_blocks"]
Encoded = tuple[torch.Tensor, ...]  # codes, scales, and offsets if there are any
FEW_ROWS = 16  # of inputs: so many fit one tile, and their products wait for the weights
SCALE_BLOCK = 128  # rows and columns that share a scale of fp8_blocks
GROUP = 64  # columns that share a scale of int4; kernels take 32, 64 and 128
CHUNK_BYTES = 1 << 28  # of float32 numbers at a time, while weights are quantized
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A matrix [out, in] that multiplies inputs [T, in].

    int8 and fp8 have one scale per output row, float32 [out]; fp8_blocks one per SCALE_BLOCK rows and columns, float32
    [out / SCALE_BLOCK, in / SCALE_BLOCK]; int4 one per row and `group` columns, of type `dtype`, [out, groups]. A code
    of int4 decodes to (base + code - offset) * scale with the offset [out, groups] of its group, or base + 8 if there
    are no offsets. Its nibbles: byte k of a row holds columns k and k + half, half being a multiple of the group.
    """

    kind: WeightKind
    dtype: torch.dtype  # of inputs and outputs
    num_in: int
    codes: torch.Tensor  # [out, in]: `dtype`, int8, or e4m3 as bytes; int4: [out, half] bytes
    scales: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    group: int = 0

    @property
    def num_out(self) -> int:
        return len(self.codes)

    @property
    def num_bytes(self) -> int:
        """That a product reads of the weights."""
        parts = (self.codes, self.scales, self.offsets)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def dense(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `[start, stop)` of the matrix, [rows, in]."""
        codes = self.codes[start:stop]
        if self.kind == "dense":
            return codes
        assert self.scales is not None
        if self.kind == "int4":
            return self._dense_int4(start, stop)
        numbers = codes.to(self.dtype) if self.kind == "int8" else codes.view(FP8).to(self.dtype)
        if self.kind != "fp8_blocks":
            return numbers.mul_(self.scales[start:stop, None])  # the scale is float32, and so is the product
        rows = torch.arange(start, start + len(codes), device=codes.device) // SCALE_BLOCK
        scales = self.scales[rows].repeat_interleave(SCALE_BLOCK, dim=1)[:, : self.num_in]
        return numbers.mul_(scales)

    def _dense_int4(self, start: int, stop: int | None) -> torch.Tensor:
        assert self.scales is not None
        codes = self.codes[start:stop]
        nibbles = torch.cat([codes & 15, codes >> 4], dim=1).to(self.dtype).view(len(codes), -1, self.group)
        offset = 8 if self.offsets is None else self.offsets[start:stop, :, None] - base(self.dtype)
        numbers = (nibbles - offset) * self.scales[start:stop, :, None]
        return numbers.view(len(codes), -1)[:, : self.num_in]


def base(dtype: torch.dtype) -> int:
    """The number whose last bits an int4 code replaces: from here on, numbers of this type are integers."""
    return 1024 if dtype == torch.float16 else 128


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
        "int4": partial(int4_weights, group=GROUP),
        "fp8": fp8_weights,
        "fp8_blocks": fp8_block_weights,
    }
)
