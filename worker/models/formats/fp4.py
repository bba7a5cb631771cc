"""Numbers of four bits, e2m1, which nvfp4 and mxfp4 scale in different ways."""

import torch
from torch.nn import functional as F

from worker.kernels.packed.weights import E2M1, MX_GROUP, Weights

NV_GROUP = 16  # columns that share a scale of nvfp4


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Bytes [..., in / 2] -> codes [..., in], the first of a pair in the lower bits."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)


def nvfp4(packed: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The dense matrix of bytes [..., out, in / 2] with scales e4m3 [..., out, in / 16]; there is no kernel for it.

    `global_scale`: one per matrix, by which the scales are multiplied.
    """
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=packed.device)
    factors = scales.float() * global_scale.float().reshape(*packed.shape[:-2], 1, 1)
    grouped = values[nibbles(packed).int()].view(*scales.shape, NV_GROUP)
    return grouped.mul_(factors[..., None]).flatten(-2).to(dtype)


def mxfp4_weights(packed: torch.Tensor, exponents: torch.Tensor, dtype: torch.dtype) -> Weights:
    """Bytes [..., out, in / 2] with exponents (e8m0) as bytes [..., out, in / 32]."""
    codes = nibbles(packed)
    num_in = codes.shape[-1]
    half = -(-num_in // (2 * MX_GROUP)) * MX_GROUP
    codes = F.pad(codes, (0, 2 * half - num_in))
    exponents = F.pad(exponents, (0, 2 * half // MX_GROUP - exponents.shape[-1]))
    return Weights("mxfp4", dtype, num_in, codes[..., :half] | codes[..., half:] << 4, exponents, None, MX_GROUP)
