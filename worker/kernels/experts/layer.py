"""The experts of one layer of a model, as they are in transformers' modules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLayer:
    """Weights [experts, out, in] and biases [experts, out]."""

    up: Weights  # gates too, where the activation takes some
    down: Weights
    up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    activate: Callable[[torch.Tensor], torch.Tensor]  # outputs of `up` -> inputs of `down`


def packed_layer(module: Any) -> ExpertLayer | None:
    """The experts of a module whose weights are packed; None for any other module."""
    if not all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "down_proj")):
        return None
    name, _ = names = packed_names(module)
    up, down = (weights_of(module, name) for name in names)
    if up is None or down is None or up.order is not None or down.order is not None:
        return None
    return ExpertLayer(
        up,
        down,
        getattr(module, f"{name}_bias") if module.has_bias else None,
        module.down_proj_bias if module.has_bias else None,
        module._apply_gate if module.has_gate else module.act_fn,
    )


def packed_names(module: Any) -> tuple[str, str]:
    """The names of a module's two matrices."""
    return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"


def weights_of(module: Any, name: str) -> Weights | None:
    """Matrices of the module; None if they are not packed, or the other way round than the module wants them."""
    tensor = getattr(module, name, None)
    if not isinstance(tensor, PackedTensor) or tensor.is_turned != module.is_transposed or tensor.dim() != 3:
        return None
    return tensor.weights
