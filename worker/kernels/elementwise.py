"""The operators between a decoder's matrix products. Compiled for a GPU, each is one kernel instead of six."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from worker.kernels.torch_seams import compile_many, mark_static

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SMALLEST_PEAK = 1e-12  # taken as the largest number of a row of zeros
MAX_FORMS = 16  # of a compiled function: three widths, each for the first number of tokens, any other, one and none


def add_norm(
    hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream plus `change`, and its root mean square norm; all [T, hidden]."""
    hidden = hidden + change
    return hidden, torch.rms_norm(hidden, weight.shape, weight, eps)


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions in place. `heads` [T, n, dim]; cos and sin [T, 1, dim], sin with rotate_half's signs."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return heads.mul_(cos).addcmul_(swapped, signed_sin)


def rotated(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """As rotate(), but into new memory: compiled, this is one kernel, and in place would be two."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), signed_sin)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2 * width] -> [T, width]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [T, in] in e4m3, each scaled so that its largest number is FP8_MAX; and their scales, float32 [T, 1]."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / FP8_MAX
    return (rows.float() / scale).to(FP8), scale


@dataclass(frozen=True, slots=True)
class Elementwise:
    """The four operators, as written above or compiled."""

    add_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]] = add_norm
    rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = rotate
    swiglu: Callable[[torch.Tensor], torch.Tensor] = swiglu
    to_fp8: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = to_fp8


def compiled() -> Elementwise:
    """The operators compiled for any number of tokens; a model's widths are constants in the kernels.

    Each compiles at its first call and raises there if the machine has no compiler. The second number of tokens, none
    and one compile once more. The probe calls them with all of these.
    """
    by_width = compile_many(to_fp8, MAX_FORMS)

    def compiled_to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mark_static(rows, 1)  # or the second width would get a kernel for any width
        rounded: tuple[torch.Tensor, torch.Tensor] = by_width(rows)
        return rounded

    return Elementwise(torch.compile(add_norm), torch.compile(rotated), torch.compile(swiglu), compiled_to_fp8)
