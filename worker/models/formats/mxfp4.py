"""MXFP4 as gpt-oss is released: its experts' matrices in e2m1 with a power of two for 32 columns; the rest is dense.

A matrix `experts.gate_up_proj` [experts, in, out] of the model is two tensors of a file: `..._blocks`
[experts, out, in / 32, 16], with two codes in a byte, and `..._scales` [experts, out, in / 32], which are exponents.
"""

from collections.abc import Mapping
from typing import Any

import torch

from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.format import Format, TensorPart
from worker.models.formats.fp4 import mxfp4_weights

PARTS = ("blocks", "scales")


class Mxfp4(Format):
    name = "mxfp4"

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") == cls.name

    def part_of(self, key: str) -> TensorPart | None:
        tensor, _, part = key.rpartition("_")
        return TensorPart(tensor, part) if part in PARTS else None

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        blocks, scales = parts["blocks"], parts["scales"].view(torch.uint8)
        if blocks.shape[:-1] != scales.shape:
            raise ValueError(f"its scales of shape {list(scales.shape)} do not fit its blocks, {list(blocks.shape)}.")
        return PackedTensor(mxfp4_weights(blocks.flatten(-2), scales, dtype), is_turned=True)
