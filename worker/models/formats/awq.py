"""AWQ: integer codes of 4 bits, each group of inputs with a scale and a zero.

AutoAWQ, GPTQModel and AutoRound write `qweight`, `qzeros` and `scales`. Version "gemm" packs outputs: int32
[in, out / 8], zeros [groups, out / 8], scales [groups, out], the eight codes of a word in the order COLUMNS. Version
"gemv" packs inputs: int32 [out, in / 8], zeros and scales [out, groups and padding], in order.
"""

from collections.abc import Mapping
from typing import Any

import torch

from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.format import Format, TensorPart
from worker.models.formats.integers import packed_by_auto_round, part_named, unpacked, zeros_or_none

PARTS = ("qweight", "qzeros", "scales")
BITS = 4
COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # that the nibbles of a word hold, from its lowest
VERSIONS = ("gemm", "gemv")


class Awq(Format):
    name = "awq"

    def __init__(self, packing: Mapping[str, Any]) -> None:
        super().__init__(packing)
        version = str(packing.get("version") or packing.get("format") or "gemm").lower()
        if version not in VERSIONS:
            raise ValueError(f"are of AWQ's format {version!r}; {' and '.join(VERSIONS)} can be read.")
        if (bits := packing.get("bits", packing.get("w_bit", BITS))) != BITS:
            raise ValueError(f"are of {bits} bits by AWQ; those of {BITS} bits can be read.")
        self._packs_outputs = version == "gemm"
        self._group = int(packing.get("group_size", packing.get("q_group_size", 128)))

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") == "awq" or packed_by_auto_round(packing, "awq")

    def part_of(self, key: str) -> TensorPart | None:
        return part_named(key, PARTS)

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        codes, zeros, scales = unpacked(parts["qweight"], BITS), unpacked(parts["qzeros"], BITS), parts["scales"]
        if self._packs_outputs:
            codes, zeros, scales = in_order(codes).t(), in_order(zeros).t(), scales.t().contiguous()
            group = codes.shape[1] // scales.shape[1]
        else:
            group = self._group if self._group > 0 else codes.shape[1]
            num_groups = codes.shape[1] // group
            zeros, scales = zeros[:, :num_groups], scales[:, :num_groups].contiguous()
        return PackedTensor(grouped_weights(codes, scales, group, BITS, dtype, zeros=zeros_or_none(zeros, BITS)))


def in_order(nibbles: torch.Tensor) -> torch.Tensor:
    """[rows, columns] with each eight columns as they are numbered."""
    places = torch.tensor(COLUMNS, device=nibbles.device).argsort()
    return nibbles.view(len(nibbles), -1, len(COLUMNS))[..., places].flatten(1)
