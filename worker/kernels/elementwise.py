"""The operators between a decoder's matrix products. Compiled on a GPU: each is one kernel then and not six."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SMALLEST_PEAK = 1e-12  # of a row of zeros
NUM_FORMS = 16  # that a compiled function may have: up to three widths by the first number of tokens, any, one and none


def add_norm(
    hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream after `change`, and its root mean square norm; all [T, hidden]."""
    hidden = hidden + change
    return hidden, torch.rms_norm(hidden, weight.shape, weight, eps)


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, in place. `heads` [T, n, dim]; cos and signed sin [T, 1, dim], the sign being rotate_half's."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return heads.mul_(cos).addcmul_(swapped, signed_sin)


def rotated(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """The same into new memory: compiled, that is one kernel, and in place would be two."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), signed_sin)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2 * width] -> [T, width]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of [T, in] in e4m3, its largest number the type's; and what to multiply it with, float32 [T, 1]."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / FP8_MAX
    return (rows.float() / scale).to(FP8), scale


@dataclass(frozen=True, slots=True)
class Elementwise:
    """The four, as they are or compiled."""

    add_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]] = add_norm
    rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = rotate
    swiglu: Callable[[torch.Tensor], torch.Tensor] = swiglu
    to_fp8: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = to_fp8


def compiled() -> Elementwise:
    """For any number of tokens; widths are a model's own, and constants in the kernels.

    Compiling happens at the first call, and fails there if it cannot be done; at the second number of tokens once more,
    for all that follow, and for none and one. The probe has them all.
    """
    by_width = torch.compile(to_fp8, recompile_limit=NUM_FORMS)  # type: ignore[call-overload]  # its stubs lag behind

    def compiled_to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch._dynamo.mark_static(rows, 1)  # or the second width would make one kernel for any
        rounded: tuple[torch.Tensor, torch.Tensor] = by_width(rows)
        return rounded

    return Elementwise(torch.compile(add_norm), torch.compile(rotated), torch.compile(swiglu), compiled_to_fp8)
