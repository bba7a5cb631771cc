"""fp8 as DeepSeek-V3 and Qwen3 are released: `weight` in e4m3 and `weight_scale_inv` per block of 128 x 128.

Others of the same kind: Mistral's (`weight_scale_inv` per matrix), those that vLLM writes (`weight_scale` per matrix),
and fbgemm's (per row). Modules that are left out are ordinary weights.
"""

from collections.abc import Mapping
from typing import Any

import torch

from worker.models.formats.format import NOTHING, Format, TensorPart
from worker.models.formats.fp8 import BLOCK, scaled_fp8

METHODS = ("fp8", "fbgemm_fp8")
SCALES = ("_scale_inv", "_scale")  # after the name of a weight; fused experts have no ".weight" before it
UNUSED = (".activation_scale", ".input_scale", ".input_scale_ub", ".q_scale", ".k_scale", ".v_scale")


class Fp8Blocks(Format):
    name = "fp8"

    def __init__(self, packing: Mapping[str, Any]) -> None:
        super().__init__(packing)
        if packing.get("expert_dtype", "fp8") != "fp8":
            raise ValueError(f"have experts in {packing['expert_dtype']}; in fp8 they can be read.")
        tall, wide = packing.get("weight_block_size") or BLOCK
        self._block = int(tall), int(wide)

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") in METHODS

    def part_of(self, key: str) -> TensorPart | None:
        if key.endswith(UNUSED):
            return NOTHING
        for suffix in SCALES:
            if key.endswith(suffix):
                return TensorPart(key.removesuffix(suffix), "scales")
        is_weight = key.endswith(".weight") or (".experts." in key and not key.endswith("bias"))
        return TensorPart(key, "codes") if is_weight else None

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        codes, scales = parts["codes"], parts.get("scales")
        return codes if scales is None else scaled_fp8(codes, scales, dtype, block=self._block, inputs="fp8")
