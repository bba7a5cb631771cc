"""The blocks of GGUF's quantized tensors, taken apart into codes, scales and minimums.

A row is a sequence of blocks of 32 or 256 columns. In a block of 256 (the K types) each 16 or 32 columns have a small
scale of their own, a multiple of the block's. The layouts are those of ggml's ggml-common.h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

SHORT, LONG = 32, 256  # columns of a block
NIBBLE_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of IQ4_NL and IQ4_XS


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor's codes, and the numbers that they stand for.

    (code - 2^(bits - 1)) * scale, or code * scale + minimum where there are minimums.
    """

    bits: int
    group: int  # columns that share a scale
    codes: torch.Tensor  # uint8 [..., out, in]
    scales: torch.Tensor  # float16 as in the file, or float32 where it is a product; [..., out, groups]
    minimums: torch.Tensor | None = None

    def dense(self) -> torch.Tensor:
        """The numbers, float32 [..., out, in]."""
        grouped = self.codes.float().view(*self.scales.shape, self.group)
        scales, low = self.scales.float()[..., None], 1 << self.bits - 1
        if self.minimums is None:
            numbers: torch.Tensor = (grouped - low) * scales
        else:
            numbers = grouped * scales + self.minimums.float()[..., None]
        return numbers.view(self.codes.shape)


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # of each block: codes, scales, minimums


@dataclass(frozen=True, slots=True)
class BlockType:
    """One quantized type: the sizes of its blocks and how they are read."""

    columns: int  # of a block
    num_bytes: int  # of a block
    bits: int
    group: int
    read: Callable[[torch.Tensor], Parts]  # of blocks [n, num_bytes]

    def codes(self, raw: torch.Tensor, shape: tuple[int, ...]) -> Codes:
        """The codes of a tensor [..., out, in] that the file has as the bytes `raw`."""
        *rows, num_in = shape
        codes, scales, minimums = self.read(raw.view(-1, self.num_bytes))
        return Codes(
            self.bits,
            self.group,
            codes.reshape(shape),
            scales.reshape(*rows, num_in // self.group),
            None if minimums is None else minimums.reshape(*rows, num_in // self.group),
        )


def half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 number at a block's byte `start`, [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16)


def nibbles(raw: torch.Tensor, run: int) -> torch.Tensor:
    """4-bit codes [n, 2 * bytes]: of each `run` bytes first the low nibbles, then the high ones."""
    runs = raw.view(len(raw), -1, run)
    return torch.stack([runs & 15, runs >> 4], dim=2).view(len(raw), -1)


def bit_fields(raw: torch.Tensor, width: int, run: int) -> torch.Tensor:
    """Fields of `width` bits [n, bytes * 8 / width]: of each `run` bytes first the lowest fields, then the next."""
    runs = raw.view(len(raw), -1, run)
    return torch.stack([runs >> shift & (1 << width) - 1 for shift in range(0, 8, width)], dim=2).view(len(raw), -1)


def bits_of(raw: torch.Tensor) -> torch.Tensor:
    """Single bits [n, 8 * bytes], each byte from its lowest."""
    return torch.stack([raw >> shift & 1 for shift in range(8)], dim=2).view(len(raw), -1)


def read_q4_0(blocks: torch.Tensor) -> Parts:
    return nibbles(blocks[:, 2:].contiguous(), 16), half(blocks, 0), None


def read_q4_1(blocks: torch.Tensor) -> Parts:
    return nibbles(blocks[:, 4:].contiguous(), 16), half(blocks, 0), half(blocks, 2)


def read_q5_0(blocks: torch.Tensor) -> Parts:
    return nibbles(blocks[:, 6:].contiguous(), 16) | bits_of(blocks[:, 2:6]) << 4, half(blocks, 0), None


def read_q5_1(blocks: torch.Tensor) -> Parts:
    return nibbles(blocks[:, 8:].contiguous(), 16) | bits_of(blocks[:, 4:8]) << 4, half(blocks, 0), half(blocks, 2)


def read_q8_0(blocks: torch.Tensor) -> Parts:
    return blocks[:, 2:] ^ 128, half(blocks, 0), None


def read_q2_k(blocks: torch.Tensor) -> Parts:
    """16 bytes of scales (low nibble) and minimums (high nibble), 64 of codes, the factors of both."""
    small = blocks[:, :16]
    scales = half(blocks, 80).float() * (small & 15)
    return bit_fields(blocks[:, 16:80].contiguous(), 2, 32), scales, -half(blocks, 82).float() * (small >> 4)


def read_q3_k(blocks: torch.Tensor) -> Parts:
    """32 bytes with the codes' highest bits, 64 with the others, 12 of 6-bit scales, their factor."""
    high = bit_fields(blocks[:, :32].contiguous(), 1, 32)
    codes = bit_fields(blocks[:, 32:96].contiguous(), 2, 32) | high << 2
    low = nibbles(blocks[:, 96:104].contiguous(), 8)
    small = low | bit_fields(blocks[:, 104:108].contiguous(), 2, 4) << 4
    return codes, half(blocks, 108).float() * (small.float() - 32), None


def small_scales(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The 6-bit scales and minimums [n, 8] in the 12 bytes of Q4_K and Q5_K.

    Bytes 0 to 3 hold the first four scales, 4 to 7 the first four minimums, 8 to 11 the low nibbles of the others;
    their two high bits are those of the first eight bytes.
    """
    first, second, third = raw.view(len(raw), 3, 4).unbind(1)
    scales = torch.cat([first & 63, third & 15 | first >> 2 & 48], dim=1)
    return scales, torch.cat([second & 63, third >> 4 | second >> 2 & 48], dim=1)


def read_q4_k(blocks: torch.Tensor) -> Parts:
    scales, minimums = small_scales(blocks[:, 4:16].contiguous())
    codes = nibbles(blocks[:, 16:].contiguous(), 32)
    return codes, half(blocks, 0).float() * scales, -half(blocks, 2).float() * minimums


def read_q5_k(blocks: torch.Tensor) -> Parts:
    scales, minimums = small_scales(blocks[:, 4:16].contiguous())
    codes = nibbles(blocks[:, 48:].contiguous(), 32) | bit_fields(blocks[:, 16:48].contiguous(), 1, 32) << 4
    return codes, half(blocks, 0).float() * scales, -half(blocks, 2).float() * minimums


def read_q6_k(blocks: torch.Tensor) -> Parts:
    """128 bytes of low nibbles, 64 of high bits, 16 signed scales, their factor."""
    low, high = nibbles(blocks[:, :128].contiguous(), 64), bit_fields(blocks[:, 128:192].contiguous(), 2, 32)
    small = blocks[:, 192:208].contiguous().view(torch.int8)
    return low | high << 4, half(blocks, 208).float() * small, None


def looked_up(codes: torch.Tensor) -> torch.Tensor:
    """The 8-bit codes of 4-bit ones whose numbers are not evenly spaced."""
    values = torch.tensor([value + 128 for value in NIBBLE_VALUES], dtype=torch.uint8)
    return values[codes.int()]


def read_iq4_nl(blocks: torch.Tensor) -> Parts:
    return looked_up(nibbles(blocks[:, 2:].contiguous(), 16)), half(blocks, 0), None


def read_iq4_xs(blocks: torch.Tensor) -> Parts:
    """The factor, 8 pairs of high bits of 6-bit scales, 4 bytes of their low nibbles, codes."""
    high, low = bit_fields(blocks[:, 2:4].unsqueeze(2).reshape(-1, 1), 2, 1).view(len(blocks), 8), blocks[:, 4:8]
    small = torch.stack([low & 15, low >> 4], dim=2).view(len(blocks), 8) | high << 4
    codes = looked_up(nibbles(blocks[:, 8:].contiguous(), 16))
    return codes, half(blocks, 0).float() * (small.float() - 32), None


# By the type's name in the gguf package. Types that are not here have codes of several numbers (a codebook's).
BLOCK_TYPES: Mapping[str, BlockType] = MappingProxyType(
    {
        "Q4_0": BlockType(SHORT, 18, 4, 32, read_q4_0),
        "Q4_1": BlockType(SHORT, 20, 4, 32, read_q4_1),
        "Q5_0": BlockType(SHORT, 22, 5, 32, read_q5_0),
        "Q5_1": BlockType(SHORT, 24, 5, 32, read_q5_1),
        "Q8_0": BlockType(SHORT, 34, 8, 32, read_q8_0),
        "Q2_K": BlockType(LONG, 84, 2, 16, read_q2_k),
        "Q3_K": BlockType(LONG, 110, 3, 16, read_q3_k),
        "Q4_K": BlockType(LONG, 144, 4, 32, read_q4_k),
        "Q5_K": BlockType(LONG, 176, 5, 32, read_q5_k),
        "Q6_K": BlockType(LONG, 210, 6, 16, read_q6_k),
        "IQ4_NL": BlockType(SHORT, 18, 8, 32, read_iq4_nl),
        "IQ4_XS": BlockType(LONG, 136, 8, 32, read_iq4_xs),
    }
)
