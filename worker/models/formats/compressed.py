"""compressed-tensors, as llm-compressor and the checkpoints of Red Hat, NVIDIA, Google and others have it.

A layer's tensors say how it is packed, by their names, types and shapes, so that targets and lists of layers to ignore
need no matching; config_groups only say whether inputs are rounded, and the size of blocks:
- pack-quantized: `weight_packed` int32 [out, in * bits / 32], `weight_scale` [out, groups], `weight_shape`, of
  asymmetric codes `weight_zero_point`, packed along the outputs, of act-order `weight_g_idx` [in];
- int-, float- and naive-quantized, mxfp8: `weight` int8 or e4m3 and `weight_scale` per matrix, row, group or block;
- nvfp4- and mxfp4-pack-quantized: `weight_packed` bytes [out, in / 2], `weight_scale`, nvfp4's `weight_global_scale`.

The library compressed-tensors is not used here: it unpacks to dense weights, its configuration refuses act-order and
fields of other releases, and it takes longer to import than a small model to load. Tests write checkpoints with it.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import torch

from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.format import NOTHING, Format, TensorPart
from worker.models.formats.fp4 import mxfp4_weights, nvfp4
from worker.models.formats.fp8 import BLOCK, Inputs, scaled_fp8
from worker.models.formats.integers import group_order, unpacked, zeros_or_none

FORMATS = frozenset(
    {
        "dense",
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "mixed-precision",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
    }
)
PARTS = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_global_scale",
    "weight_zero_point",
    "weight_g_idx",
    "weight_shape",
)
UNUSED = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
UNUSED_OF_CACHE = tuple(f"{tensor}_{part}" for tensor in "qkv" for part in ("scale", "zero_point", "global_scale"))
BITS = (4, 8)


class CompressedTensors(Format):
    name = "compressed-tensors"

    def __init__(self, packing: Mapping[str, Any]) -> None:
        super().__init__(packing)
        self._groups = [group for group in packing.get("config_groups", {}).values() if isinstance(group, Mapping)]
        for name in (packing.get("format"), *(group.get("format") for group in self._groups)):
            if name is not None and name not in FORMATS:
                raise ValueError(f"are of compressed-tensors' format {name!r}, which cannot be read.")
        if (packing.get("sparsity_config") or {}).get("format", "dense") != "dense":
            raise ValueError("are stored sparse by compressed-tensors; choose a checkpoint without sparsity_config.")
        if packing.get("transform_config"):
            raise ValueError("need rotations of their inputs (transform_config); choose a checkpoint without them.")

    @classmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        return packing.get("quant_method") == "compressed-tensors"

    def part_of(self, key: str) -> TensorPart | None:
        module, _, last = key.rpartition(".")
        if last in UNUSED or last in UNUSED_OF_CACHE:
            return NOTHING
        return TensorPart(f"{module}.weight", last) if last in PARTS else None

    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        scales = parts.get("weight_scale")
        if scales is None:
            return parts["weight"]
        packed = parts.get("weight_packed")
        if packed is None and parts["weight"].dtype != torch.int8:
            inputs = self._inputs("float", 8)
            return scaled_fp8(parts["weight"], scales, dtype, block=self._block_of_fp8(), inputs=inputs)
        if packed is not None and "weight_global_scale" in parts:
            return nvfp4(packed, scales, 1 / parts["weight_global_scale"].float(), dtype)
        if packed is not None and packed.dtype == torch.uint8:
            return PackedTensor(mxfp4_weights(packed, scales, dtype))
        return self._integers(parts, scales, dtype)

    def _integers(self, parts: Mapping[str, torch.Tensor], scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        codes, bits = codes_of(parts)
        per_row = (*codes.shape[:-1], -1)
        scales = (scales if scales.dim() > 1 else scales.reshape(-1, 1)).expand(per_row).contiguous()
        group = -(-codes.shape[-1] // scales.shape[-1])
        order = group_order(parts["weight_g_idx"], group) if "weight_g_idx" in parts else None
        weights = grouped_weights(
            codes if order is None else codes[..., order],
            scales,
            group,
            bits,
            dtype,
            zeros=zeros_of(parts.get("weight_zero_point"), scales.shape, bits),
            order=order,
            inputs=self._inputs("int", bits),
        )
        return PackedTensor(weights)

    def _inputs(self, kind: str, bits: int) -> Inputs:
        """How inputs of layers with such codes are rounded; a static scale in the file is not used."""
        rounding = self._scheme(kind, bits).get("input_activations") or {}
        if rounding.get("num_bits") != 8:
            return ""
        return "fp8" if rounding.get("type") == "float" else "int8"

    def _block_of_fp8(self) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        scheme = self._scheme("float", 8).get("weights") or {}
        if scheme.get("block_structure"):
            tall, wide = scheme["block_structure"]
            return int(tall), int(wide)
        return (1, int(scheme["group_size"])) if scheme.get("group_size") else BLOCK

    def _scheme(self, kind: str, bits: int) -> Mapping[str, Any]:
        """The group of the configuration with such weights; empty if there is none."""
        for group in self._groups:
            weights = group.get("weights") or {}
            if (weights.get("type", "int"), weights.get("num_bits", 8)) == (kind, bits):
                return group
        return {}


def codes_of(parts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Codes uint8 [..., out, in], and their bits. Raises ValueError for bits that cannot be read."""
    if (packed := parts.get("weight_packed")) is None:
        return unsigned(parts["weight"], 8), 8
    num_in = int(parts["weight_shape"][-1])
    bits = next((bits for bits in range(1, 9) if -(-num_in * bits // 32) == packed.shape[-1]), 0)
    if bits not in BITS:
        raise ValueError(f"it has {bits} bits; {', '.join(map(str, BITS))} can be read")
    return unpacked(packed, bits)[..., :num_in], bits


def zeros_of(zeros: torch.Tensor | None, shape: Seq[int], bits: int) -> torch.Tensor | None:
    """Codes of zero [..., out, groups], from signed ones or from such packed along the outputs; None if symmetric."""
    if zeros is None:
        return None
    is_packed = zeros.dtype == torch.int32
    found = unpacked(zeros.mT, bits).mT[..., : shape[-2], :] if is_packed else unsigned(zeros, bits)
    return zeros_or_none((found if found.dim() > 1 else found.reshape(-1, 1)).expand(*shape), bits)


def unsigned(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed codes, as int8, from 0 on."""
    return (codes.view(torch.uint8) + (1 << (bits - 1))) & (1 << bits) - 1  # bytes wrap around
