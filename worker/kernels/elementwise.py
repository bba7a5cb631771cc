"""The operators between a decoder's matrix products, by torch: on a CPU, and on a GPU without Triton."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch.nn import functional as F

from worker.kernels.available import has_triton

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}
)
SMALLEST_PEAK = 1e-12  # taken as the largest number of a row of zeros
Rounding = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions in place. `heads` [T, n, dim]; cos and sin [T, 1, dim], sin with rotate_half's signs."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return heads.mul_(cos).addcmul_(swapped, signed_sin)


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """[T, 2 * width], gates first -> [T, width]. `activation`: a name of ACTIVATIONS."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate).mul_(up)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """As gated(), with SiLU."""
    return gated(gate_up, "silu")


def to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [T, in] in e4m3, each scaled so that its largest number is FP8_MAX; and their scales, float32 [T, 1]."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / FP8_MAX
    return (rows.float() / scale).to(FP8), scale


def fp8_rounding(device: torch.device) -> Rounding:
    """to_fp8(), as one kernel where the device has Triton."""
    if device.type != "cuda" or not has_triton():
        return to_fp8
    from worker.kernels.gpu.rounding import to_fp8 as by_triton

    return by_triton
