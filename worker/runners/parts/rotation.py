"""Rotary positions: cos and sin of a step's tokens, by a model's own module or from its frequencies."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin of a step's tokens
MAX_ERROR = 1e-6  # of the cosines and sines of fixed frequencies
TRIED = range(0, 4096, 63)  # positions


@dataclass(frozen=True, slots=True)
class FixedFrequencies:
    """cos and sin of a step in three kernels, where a model's own module takes about nine."""

    frequencies: torch.Tensor  # [rotated] float32, each twice
    scaling: float

    def __call__(self, positions: torch.Tensor) -> Rotation:
        """Positions [T] -> cos and sin, float32 [T, rotated]."""
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.scaling == 1 else (cos * self.scaling, sin * self.scaling)


class Rotary:
    """A model's rotary module. Layers of one kind share their frequencies; the kind is None where there is only one."""

    def __init__(self, module: Any, layer_types: Iterable[str] | None) -> None:
        self.module = module
        has_kinds = isinstance(getattr(module, "rope_type", None), dict)
        self.kinds = tuple(layer_types or ()) if has_kinds else None  # of each layer, in order
        self.num_axes = 1 if has_kinds else num_axes_of(module)
        self.is_halved = False  # cos and sin come for half of the numbers that are rotated, as gpt-oss has them
        self.is_halved = self._is_halved()

    def kind_of(self, layer_idx: int) -> str | None:
        return None if self.kinds is None else self.kinds[layer_idx]

    def __call__(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str | None) -> Rotation:
        """cos and sin, [T, rotated] each, of text tokens, which have the same position on every axis."""
        if kind is not None:
            cos, sin = self.module(hidden, positions[None], kind)
        elif self.num_axes == 1:
            cos, sin = cos_and_sin(self.module(hidden, positions[None]), hidden.dtype)
        else:
            cos, sin = (part[0] for part in self.module(hidden, positions.expand(self.num_axes, 1, -1)))
        if self.is_halved:
            cos, sin = (torch.cat([part, part], dim=-1) for part in (cos, sin))
        return cos[0], sin[0]

    def _is_halved(self) -> bool:
        kind = None if self.kinds is None else self.kinds[0]
        frequencies = getattr(self.module, "inv_freq" if kind is None else f"{kind}_inv_freq", None)
        if not isinstance(frequencies, torch.Tensor):
            return False
        nothing = frequencies.new_zeros(1, dtype=torch.float32)
        return self(nothing, nothing.long(), kind)[0].shape[-1] == len(frequencies)

    def fixed(self, kind: str | None) -> FixedFrequencies | None:
        """None for frequencies that depend on the step, or are used in another way than in most models."""
        prefix = "" if kind is None else f"{kind}_"
        of_module = getattr(self.module, "rope_type", None)
        rope_type = of_module.get(kind) if isinstance(of_module, dict) else of_module
        once = getattr(self.module, f"{prefix}inv_freq", None)
        if not isinstance(rope_type, str) or not isinstance(once, torch.Tensor):
            return None
        if "dynamic" in rope_type or rope_type == "longrope":
            return None
        scaling = float(getattr(self.module, f"{prefix}attention_scaling", 1))
        fixed = FixedFrequencies(torch.cat([once, once]).float(), scaling)
        positions = torch.tensor(TRIED, device=once.device)
        expected = self(once.new_zeros(1, dtype=torch.float32), positions, kind)
        is_same = all(
            ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= MAX_ERROR)
            for ours, theirs in zip(fixed(positions), expected, strict=True)
        )
        return fixed if is_same else None


def cos_and_sin(found: Any, dtype: torch.dtype) -> Rotation:
    """What a rotary module puts out; in DeepSeek V2 one complex number of both."""
    if isinstance(found, torch.Tensor):
        return found.real.to(dtype), found.imag.to(dtype)
    cos, sin = found
    return cos, sin


def num_axes_of(rotary: Any) -> int:
    """The numbers of a token's position: one, or three (time, height, width) in some vision families."""
    device = next(rotary.buffers()).device
    hidden, positions = torch.zeros(1, device=device), torch.zeros(3, 1, 2, dtype=torch.long, device=device)
    try:
        is_one = cos_and_sin(rotary(hidden, positions[0]), hidden.dtype)[0].dim() == 3
    except (IndexError, RuntimeError):
        is_one = False
    return 1 if is_one else 3
