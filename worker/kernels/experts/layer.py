"""The experts of one layer of a model, as they are in transformers' modules, and what computes them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from worker.kernels.experts.activation import Activate, activation_of
from worker.kernels.linear import has_kernels
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights, stacked_weights

MATRICES = 3  # dimensions of the weights of all experts
Encode = Callable[[torch.Tensor], Weights]  # a dense matrix [out, in], quantized


class Experts(Protocol):
    """The experts of a layer: for each token the sum of those that it chose, by their weights."""

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """hidden [T, width], chosen [T, k] int64, all of a token different, weights [T, k] float32 -> out [T, width].

        Sums are made in float32 and rounded once. `out` has the dtype of `hidden` and shares no memory with it.
        """


@runtime_checkable
class ExpertsBeside(Experts, Protocol):
    """Experts that are computed elsewhere, beside what the caller computes in the meantime."""

    def begin(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor
    ) -> Callable[[], None]:
        """As a call; `out` holds the sums only when what is returned has been called. Until then nothing may change
        the arguments."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLayer:
    """Weights [experts, out, in], dense ones in any memory order, and biases [experts, out]."""

    up: Weights  # gates too, where the activation takes some
    down: Weights
    up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    activate: Activate  # outputs of `up` -> inputs of `down`

    @property
    def num_experts(self) -> int:
        return len(self.up.codes)

    @property
    def is_packed(self) -> bool:
        return self.up.kind != "dense" or self.down.kind != "dense"

    def quantized(self, encode: Encode) -> "ExpertLayer":
        """With weights quantized, one expert after the other."""
        up, down = (
            stacked_weights([encoded(part.matrix(expert), encode) for expert in range(self.num_experts)])
            for part in (self.up, self.down)
        )
        return replace(self, up=up, down=down)


def encoded(matrix: Weights, encode: Encode | None) -> Weights:
    """A matrix [out, in] quantized, anew if it is packed already; as it is without `encode`."""
    if encode is None:
        return matrix
    return encode(matrix.codes if matrix.kind == "dense" else matrix.dense())


def expert_layer(module: Any) -> ExpertLayer | None:
    """The experts of a module; None for any other module, and for experts that we do not compute."""
    if not has_experts(module) or getattr(module, "has_post_expert_norm", False):
        return None
    name, _ = names = matrix_names(module)
    up, down = (weights_of(module, name) for name in names)
    if up is None or down is None or up.order is not None or down.order is not None:
        return None
    up_bias, down_bias = (
        (getattr(module, f"{name}_bias").detach(), module.down_proj_bias.detach()) if module.has_bias else (None, None)
    )
    return ExpertLayer(up, down, up_bias, down_bias, activation_of(module))


def has_experts(module: Any) -> bool:
    """True for the module of a layer's experts."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "down_proj"))


def matrix_names(module: Any) -> tuple[str, str]:
    """The names of a module's two matrices."""
    return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"


def weights_of(module: Any, name: str) -> Weights | None:
    """Matrices of the module [experts, out, in]; None if they are packed the other way round than it wants them."""
    tensor = getattr(module, name, None)
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != MATRICES:
        return None
    if isinstance(tensor, PackedTensor):
        return tensor.weights if tensor.is_turned == module.is_transposed else None
    if type(tensor.data) is not torch.Tensor:  # one of torchao's
        return None
    if module.is_transposed and has_kernels(tensor.device):  # which read rows; the module goes on with the same memory
        tensor.data = tensor.data.transpose(1, 2).contiguous().transpose(1, 2)
    matrices = tensor.detach().transpose(1, 2) if module.is_transposed else tensor.detach()
    return Weights("dense", matrices.dtype, matrices.shape[-1], matrices)
