"""Lets a model's experts compute from packed weights, by transformers' interface for implementations of experts."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from worker.kernels.experts.layer import ExpertLayer, packed_layer, packed_names
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.linear import has_kernels
from worker.kernels.packed.linear import has_kernel

IMPLEMENTATION = "packed"  # its name in transformers
STOCK = "grouped_mm"  # what others do
Experts = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # hidden [T, width], chosen [T, k] -> [T, k, width]


@dataclass(frozen=True, slots=True)
class ExpertsSwap:
    """The modules of a model that compute with our experts now."""

    part: Any
    modules: Seq[Any]
    before: Any  # the implementations that the model had

    def undo(self) -> None:
        for module in self.modules:
            del module.experts_product
        self.part.set_experts_implementation(self.before)

    def pack(self) -> None:
        """Free the modules' own weights: the products may hold them in another layout."""
        for module in self.modules:
            for name in packed_names(module):
                setattr(module, name, None)


def swap_experts(part: Any) -> list[ExpertsSwap]:
    """Let the modules with packed experts under `part` compute from these; empty if there are none."""
    found = {module: layer for module in part.modules() if (layer := packed_layer(module)) is not None}
    if not found:
        return []
    for module, layer in found.items():
        module.experts_product = experts_of(layer)
    ExpertsInterface.register(IMPLEMENTATION, experts_forward)
    before = part.get_experts_implementation()
    part.set_experts_implementation(IMPLEMENTATION)
    return [ExpertsSwap(part, list(found), before)]


def experts_of(layer: ExpertLayer) -> Experts:
    """The fastest way on the device."""
    if has_kernels(layer.up.codes.device) and has_kernel(layer.up) and has_kernel(layer.down):
        from worker.kernels.gpu.experts.product import GroupedExperts

        return GroupedExperts(layer)
    return LoopedExperts(layer)


def experts_forward(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As transformers' functions: [T, width], the chosen experts [T, k] and their weights [T, k] -> [T, width]."""
    product: Experts | None = getattr(module, "experts_product", None)
    if product is None:
        stock: torch.Tensor = ALL_EXPERTS_FUNCTIONS[STOCK](module, hidden_states, top_k_index, top_k_weights)
        return stock
    outputs = product(hidden_states, top_k_index)
    if getattr(module, "has_post_expert_norm", False):
        outputs = module.post_expert_norm(outputs)
    return (outputs * top_k_weights[..., None]).sum(dim=1).to(hidden_states.dtype)
