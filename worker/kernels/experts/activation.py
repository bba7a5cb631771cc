"""What an expert computes between its two matrices, by name and numbers, so that kernels can compute it too."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from worker.kernels.elementwise import ACTIVATIONS

MAX_ERROR = 1e-6
NUM_TRIED = 37


@dataclass(frozen=True, slots=True)
class Activation:
    """activation(gate) * (up + shift); without gates, activation(up)."""

    name: str = "silu"  # of ACTIVATIONS
    has_gate: bool = True  # the outputs of the first matrix hold gates too
    alternates: bool = False  # gate, up, gate, up and so on; else all gates first
    limit: float = math.inf  # gates are at most this, ups between -limit and limit
    alpha: float = 1.0  # activation(alpha * gate) / alpha
    shift: float = 0.0

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the first matrix [rows, 2 * width], or [rows, width] without gates -> [rows, width]."""
        activate = ACTIVATIONS[self.name]
        if not self.has_gate:
            return activate(outputs)
        gate, up = (outputs[..., 0::2], outputs[..., 1::2]) if self.alternates else outputs.chunk(2, dim=-1)
        if self.limit != math.inf:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        gate = activate(gate) if self.alpha == 1 else activate(gate * self.alpha) / self.alpha
        return gate * (up + self.shift) if self.shift else gate * up


Activate = Callable[[torch.Tensor], torch.Tensor]  # an Activation, or what a module computes that has no name


def activation_name(function: Activate) -> str | None:
    """The name in ACTIVATIONS of what the function computes."""
    inputs = torch.linspace(-8, 8, 33)
    return next((name for name, known in ACTIVATIONS.items() if are_close(function(inputs), known(inputs))), None)


def activation_of(module: Any) -> Activate:
    """What a module of experts computes between its matrices; its own function if that has no name."""
    function: Activate = module._apply_gate if module.has_gate else module.act_fn
    tried = torch.linspace(-9, 9, NUM_TRIED)  # gates, and in other orders what they are multiplied by
    columns = torch.stack([tried, tried.flip(0), tried.roll(9), tried.roll(20)], dim=1)
    found = function(columns)
    return next((known for known in candidates(module) if are_close(known(columns), found)), function)


def candidates(module: Any) -> Iterator[Activation]:
    limit, alpha = (getattr(module, name, None) for name in ("limit", "alpha"))
    for name in ACTIVATIONS:
        for alternates in (False, True):
            yield Activation(name, bool(module.has_gate), alternates)
            if limit is not None and alpha is not None:
                yield Activation(name, bool(module.has_gate), alternates, float(limit), float(alpha), shift=1.0)


def are_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=MAX_ERROR, rtol=MAX_ERROR)
