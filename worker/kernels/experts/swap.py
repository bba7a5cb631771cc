"""Lets a model's experts compute by our products, by transformers' interface for implementations of experts."""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from worker.kernels.elementwise import SMALLEST_PEAK
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.layer import Encode, ExpertLayer, Experts, expert_layer, matrix_names
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.linear import has_kernels
from worker.kernels.native import NoKernels
from worker.kernels.packed.linear import has_kernel

logger = logging.getLogger(__name__)

IMPLEMENTATION = "packed"  # its name in transformers
STOCK = "grouped_mm"  # what others do
MAX_DEVIATION = 0.02  # of a product's largest number; rounding to bf16 makes 0.004


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
            drop_matrices(module)


def swap_experts(part: Any) -> list[ExpertsSwap]:
    """Let the modules with packed experts under `part` compute from these; empty if there are none."""
    layers = {module: layer for module in part.modules() if (layer := expert_layer(module)) is not None}
    found = {module: experts_of(layer) for module, layer in layers.items() if layer.is_packed}
    return [use_experts(part, found)] if found else []


def swap_proven_experts(part: Any, encode_for: Callable[[ExpertLayer], Encode | None]) -> None:
    """Let the modules with packed experts under `part` compute from these for good, before the model itself is run.

    The modules would decode all experts for each pass. Instead two experts of each layer are compared with their dense
    numbers; a module whose product deviates keeps its own way. `encode_for`: how a layer is quantized anew, if it is.
    """
    found: dict[Any, Experts] = {}
    for module in part.modules():
        layer = expert_layer(module)
        if layer is None or not layer.is_packed or product_of(module) is not None:
            continue
        if (encode := encode_for(layer)) is not None:
            layer = layer.quantized(encode)
        product = experts_of(layer)
        if (deviation := deviation_of(product, layer)) <= MAX_DEVIATION:
            found[module] = product
        else:
            logger.warning("the experts of a layer deviate by %.2g, and are computed by their module", deviation)
    if found:
        use_experts(part, found).pack()


@torch.inference_mode()
def deviation_of(product: Experts, layer: ExpertLayer) -> float:
    """Of two rows that take the first and the last expert, from their dense numbers; of the largest of these."""
    width, device = layer.up.num_in, layer.up.codes.device
    hidden = torch.linspace(-1, 1, 2 * width, device=device).view(2, width).to(layer.up.dtype)
    experts = list(dict.fromkeys((0, layer.num_experts - 1)))
    chosen = torch.tensor([experts, experts[::-1]], device=device)
    weights = torch.full(chosen.shape, 1 / len(experts), device=device)
    expected, found = hidden.new_zeros(2, layer.down.num_out, dtype=torch.float32), torch.empty_like(hidden)
    for expert in experts:
        biases = (None if bias is None else bias[expert].float() for bias in (layer.up_bias, layer.down_bias))
        up, down = (matrices.matrix(expert).dense().float() for matrices in (layer.up, layer.down))
        up_bias, down_bias = biases
        expected += F.linear(layer.activate(F.linear(hidden.float(), up, up_bias)), down, down_bias) / len(experts)
    product(hidden, chosen, weights, found)
    return float((found.float() - expected).abs().max() / expected.abs().max().clamp(min=SMALLEST_PEAK))


def use_experts(part: Any, products: Mapping[Any, Experts]) -> ExpertsSwap:
    """Let these modules of `part` compute so."""
    for module, product in products.items():
        module.experts_product = product
    ExpertsInterface.register(IMPLEMENTATION, experts_forward)
    before = part.get_experts_implementation()
    part.set_experts_implementation(IMPLEMENTATION)
    return ExpertsSwap(part, list(products), before)


def product_of(module: Any) -> Experts | None:
    """What a module of experts was told to compute by, if it was."""
    product: Experts | None = getattr(module, "experts_product", None)
    return product


def drop_matrices(module: Any) -> None:
    """Free a module's own weights. It can no longer run by itself."""
    for name in matrix_names(module):
        setattr(module, name, None)


def experts_of(layer: ExpertLayer, encode: Encode | None = None) -> Experts:
    """The fastest way on the device of the weights, which are quantized by `encode`."""
    if layer.up.codes.device.type == "cpu":
        try:
            return CpuExperts.of(layer, encode)
        except NoKernels as reason:
            logger.info("experts one after the other: %s", reason)
    layer = layer if encode is None else layer.quantized(encode)
    if has_kernels(layer.up.codes.device) and has_kernel(layer.up) and has_kernel(layer.down):
        from worker.kernels.gpu.experts.product import GroupedExperts

        return GroupedExperts(layer)
    return LoopedExperts(layer)


def experts_forward(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As transformers' functions: [T, width], the chosen experts [T, k] and their weights [T, k] -> [T, width]."""
    product = product_of(module)
    if product is None:
        stock: torch.Tensor = ALL_EXPERTS_FUNCTIONS[STOCK](module, hidden_states, top_k_index, top_k_weights)
        return stock
    out = torch.empty_like(hidden_states)
    product(hidden_states, top_k_index, top_k_weights.float(), out)
    return out
