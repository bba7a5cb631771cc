"""GPTQ: integer codes of 4 or 8 bits, each group of inputs with a scale and a zero.

AutoGPTQ, GPTQModel and AutoRound write `qweight` int32 [in * bits / 32, out], `qzeros` int32 [groups, out * bits / 32],
`scales` [groups, out], and `g_idx` [in], the group of each input. Version 1 has its zeros less one, taken from whole
words, so that a zero of 0 borrows from the next. Bits and groups are read from the shapes, so layers may differ
(`dynamic` of GPTQModel), and those that are left out are ordinary weights.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.format import Format, TensorPart
from worker.models.formats.integers import group_order, packed_by_auto_round, part_named, unpacked, zeros_or_none

PARTS = ("qweight", "qzeros", "scales", "g_idx")
ONES = MappingProxyType({4: 0x11111111, 8: 0x01010101})  # of each bits, a word with a one for every zero
BITS = tuple(ONES)
VERSIONS = ("gptq", "gptq_v2")


class Gptq(Format):
    name = "gptq"

    def __init__(self, packing: Mapping[str, Any]) -> None:
        super().__init__(packing)
        version = packing.get("checkpoint_format") or packing.get("format") or "gptq"
        if version not in VERSIONS:
            raise ValueError(f"are of GPTQ's format {version!r}; {' and '.join(VERSIONS)} can be read.")
        if packing.get("bits", 4) not in BITS:
            raise ValueError(f"are of {packing['bits']} bits by GPTQ; those of 4 and 8 bits can be read.")
        self._less = 1 if version == "gptq" else 0

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") == "gptq" or packed_by_auto_round(packing, "gptq")

    def part_of(self, key: str) -> TensorPart | None:
        return part_named(key, PARTS)

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        scales = parts["scales"].t().contiguous()  # [out, groups]
        bits = parts["qzeros"].shape[1] * 32 // len(scales)
        if bits not in BITS:
            raise ValueError(f"it has {bits} bits; 4 and 8 can be read")
        codes = unpacked(parts["qweight"].t(), bits)
        zeros = unpacked(parts["qzeros"] + self._less * ONES[bits], bits).t()
        group = -(-codes.shape[1] // scales.shape[1])
        order = group_order(parts["g_idx"], group) if "g_idx" in parts else None
        if order is not None:
            codes = codes[:, order]
        zeros_of_groups = zeros_or_none(zeros, bits)
        return PackedTensor(grouped_weights(codes, scales, group, bits, dtype, zeros=zeros_of_groups, order=order))
