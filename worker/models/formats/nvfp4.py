"""NVIDIA's Model Optimizer: nvfp4, fp8 and their mixtures.

`weight` and `weight_scale`, as bytes [out, in / 2] with scales e4m3 of 16 columns each and `weight_scale_2` for all, or
in e4m3 with scales per matrix, row or block. A layer's tensors say which it is. nvfp4 is kept dense: it has no kernel.
"""

from collections.abc import Mapping
from typing import Any

import torch

from worker.models.formats.format import NOTHING, Format, TensorPart
from worker.models.formats.fp4 import nvfp4
from worker.models.formats.fp8 import scaled_fp8

METHODS = ("modelopt", "modelopt_fp4", "modelopt_mixed")
ALGORITHMS = frozenset({"FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB", "FP8_PB_WO", "NVFP4", "NVFP4_AWQ", "W4A16_NVFP4"})
MIXED = "MIXED_PRECISION"
SCALE_OF_INPUTS = "pre_quant_scale"  # of NVFP4_AWQ, where it is not part of the norm before
PARTS = ("weight", "weight_scale", "weight_scale_2", SCALE_OF_INPUTS)
UNUSED = ("input_scale", "k_scale", "v_scale", "q_scale")


class ModelOpt(Format):
    name = "modelopt"

    def __init__(self, packing: Mapping[str, Any]) -> None:
        super().__init__(packing)
        layers = packing.get("quantized_layers") or {}
        found = {packing.get("quant_algo"), *(layer.get("quant_algo") for layer in layers.values())} - {None, MIXED}
        if unknown := sorted(name for name in found if name.upper() not in ALGORITHMS):
            readable = ", ".join(sorted(ALGORITHMS))
            raise ValueError(f"are packed by Model Optimizer's {unknown[0]!r}; of its formats {readable} can be read.")

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") in METHODS

    def part_of(self, key: str) -> TensorPart | None:
        module, _, last = key.rpartition(".")
        if last in UNUSED:
            return NOTHING
        return TensorPart(f"{module}.weight", last) if last in PARTS else None

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        weight, scales = parts["weight"], parts.get("weight_scale")
        if scales is None:
            return weight
        if weight.dtype != torch.uint8:
            return scaled_fp8(weight, scales, dtype, inputs="fp8")
        dense = nvfp4(weight, scales, parts["weight_scale_2"], dtype)
        return dense if SCALE_OF_INPUTS not in parts else dense * parts[SCALE_OF_INPUTS].to(dtype)
