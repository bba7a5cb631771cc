"""Packs matrices as exporters do, each with the numbers that the packed ones stand for.

GPTQ's and AWQ's layouts were compared with GPTQModel 7.7.0's `pack_original` and AutoAWQ 0.2.9's `from_linear`;
compressed-tensors' are written by the library itself.
"""

from typing import Any

import torch

from tests.worker.models.formats.twins import Packed

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def encoded(
    matrix: torch.Tensor, groups: torch.Tensor, bits: int, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [out, in], zeros and scales [out, groups] of columns in these `groups` [in], and the numbers [out, in]."""
    most, num_groups = (1 << bits) - 1, int(groups.max()) + 1
    columns = [matrix[:, groups == group] for group in range(num_groups)]
    low = torch.stack([part.amin(dim=1) for part in columns], dim=1).clamp(max=0)
    high = torch.stack([part.amax(dim=1) for part in columns], dim=1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / most).clamp(min=1e-4).half().float()
    zeros = torch.full_like(scales, (most + 1) // 2) if symmetric else (-low / scales).round().clamp(0, most)
    codes = ((matrix / scales[:, groups]).round() + zeros[:, groups]).clamp(0, most)
    return codes.long(), zeros.long(), scales, (codes - zeros[:, groups]) * scales[:, groups]


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """[..., n] -> int32 [..., n * bits / 32], the first code in the lowest bits."""
    shifts = torch.arange(0, 32, bits)
    return (codes.unflatten(-1, (-1, 32 // bits)) << shifts).sum(dim=-1).to(torch.int32)


def gptq(
    name: str,
    matrix: torch.Tensor,
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    act_order: bool = False,
    version: str = "gptq",
) -> Packed:
    num_in = matrix.shape[1]
    groups = torch.arange(num_in) // (group if group > 0 else num_in)
    if act_order:  # layers that read the same inputs have the same order
        groups = groups[torch.randperm(num_in, generator=torch.Generator().manual_seed(num_in))]
    codes, zeros, scales, numbers = encoded(matrix, groups, bits, symmetric=symmetric)
    packed_zeros = words(zeros.t(), bits)
    if version == "gptq":
        packed_zeros -= {4: 0x11111111, 8: 0x01010101}[bits]
    module = name.removesuffix(".weight")
    parts = {
        f"{module}.qweight": words(codes, bits).t(),
        f"{module}.qzeros": packed_zeros,
        f"{module}.scales": scales.t().half(),
        f"{module}.g_idx": groups.int(),
    }
    return parts, numbers


def awq(name: str, matrix: torch.Tensor, *, group: int = 32, version: str = "gemm") -> Packed:
    num_out, num_in = matrix.shape
    codes, zeros, scales, numbers = encoded(matrix, torch.arange(num_in) // group, 4, symmetric=False)
    scales = scales.half()
    if version == "gemm":
        codes, zeros, scales = shuffled(codes.t()), shuffled(zeros.t()), scales.t()
    else:
        width = -(-zeros.shape[1] // (8 * 128 // group)) * 128 // group  # as calculate_zeros_width()
        zeros, scales = (torch.nn.functional.pad(part, (0, 8 * width - part.shape[1])) for part in (zeros, scales))
    module = name.removesuffix(".weight")
    parts = {f"{module}.qweight": words(codes, 4), f"{module}.qzeros": words(zeros, 4), f"{module}.scales": scales}
    return parts, numbers


def shuffled(codes: torch.Tensor) -> torch.Tensor:
    return codes.unflatten(-1, (-1, 8))[..., list(AWQ_ORDER)].flatten(-2)


def compressed(name: str, matrix: torch.Tensor, kind: str, **scheme: Any) -> Packed:
    """By the library compressed-tensors; `scheme`: the fields of QuantizationScheme."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    config = QuantizationScheme(targets=["Linear"], format=kind, **scheme)
    weights = config.weights
    state = {"weight": matrix}
    if kind == "nvfp4-pack-quantized":
        state["weight_global_scale"] = (448 * 6 / matrix.abs().amax()).view(1)
    tall, wide = block_of(matrix, weights)
    blocks = matrix.view(matrix.shape[0] // tall, tall, -1, wide)
    low, high = blocks.amin(dim=(1, 3)), blocks.amax(dim=(1, 3))
    found = calculate_qparams(low, high, weights, global_scale=state.get("weight_global_scale"))
    state["weight_scale"], zeros = (part.view(1) if weights.strategy == "tensor" else part for part in found)
    if not weights.symmetric:
        state["weight_zero_point"] = zeros
    compressor = BaseCompressor.get_value_from_registry(kind)
    packed = compressor.compress(state, config)
    numbers = compressor.decompress(dict(packed), config)["weight"].float()
    module = name.removesuffix(".weight")
    return {f"{module}.{part}": tensor for part, tensor in packed.items()}, numbers


def block_of(matrix: torch.Tensor, weights: Any) -> tuple[int, int]:
    """Rows and columns of `matrix` that share a scale."""
    num_out, num_in = matrix.shape
    return {
        "tensor": (num_out, num_in),
        "channel": (1, num_in),
        "group": (1, weights.group_size),
        "tensor_group": (1, weights.group_size),
        "block": tuple(weights.block_structure or ()),
    }[weights.strategy]
