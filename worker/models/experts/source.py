"""The routed experts of a checkpoint that is not loaded: which tensors they are, and one of them at a time."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from worker.kernels.experts.activation import Activate, activation_of
from worker.kernels.experts.layer import encoded, has_experts, matrix_names
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights, can_join, joined_weights
from worker.kernels.quantized import Quantization

LAYER = re.compile(r"\.layers\.(\d+)\.")
ONE = re.compile(r".*\.layers\.(\d+)\.(?:.+\.)?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
ALL = re.compile(r".*\.layers\.(\d+)\.(?:.+\.)?experts\.((?:gate_up|up|down)_proj)")
PARTS = MappingProxyType({"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"})  # Mixtral's names


@dataclass(frozen=True, slots=True)
class LayerSource:
    """The experts of one layer, by the tensors of files: read() may be called by several threads."""

    name: str  # of the module
    module: Any  # on the meta device
    num_experts: int
    activate: Activate
    single: dict[tuple[int, str], Any] = field(default_factory=dict)  # by expert and part
    fused: dict[str, Any] = field(default_factory=dict)  # of all experts, by the name of a parameter

    @property
    def num_numbers(self) -> int:
        """Of one expert."""
        return sum(getattr(self.module, name)[0].numel() for name in matrix_names(self.module))

    @property
    def num_all(self) -> int:
        """Numbers of all experts."""
        return self.num_experts * self.num_numbers

    @property
    def is_complete(self) -> bool:
        """True if the files have all matrices of all experts, in a way that we know."""
        if {*matrix_names(self.module)} <= self.fused.keys():
            return not self.single
        parts = ("gate_proj", "up_proj", "down_proj") if self.module.has_gate else ("up_proj", "down_proj")
        wanted = {(expert, part) for expert in range(self.num_experts) for part in parts}
        return not self.fused and self.single.keys() == wanted

    def read(self, expert: int, dtype: torch.dtype, quantization: Quantization | None) -> tuple[Weights, Weights]:
        """The expert's two matrices, [out, in] each, computing in `dtype`.

        Raises ValueError for tensors that are not as their format says.
        """
        if self.fused:
            found = [self._matrix(name, expert) for name in matrix_names(self.module)]
        else:
            first = ("gate_proj", "up_proj") if self.module.has_gate else ("up_proj",)
            up = joined([weights_of(self.single[expert, part][...]) for part in first])
            found = [up, weights_of(self.single[expert, "down_proj"][...])]
        up, down = (formed(weights, dtype, quantization) for weights in found)
        return up, down

    def _matrix(self, name: str, expert: int) -> Weights:
        tensor = self.fused[name][expert : expert + 1]
        return weights_of(tensor, is_turned=self.module.is_transposed).matrix(0)


def weights_of(tensor: torch.Tensor, *, is_turned: bool = False) -> Weights:
    """A matrix, or several, as the files have it. `is_turned`: [..., in, out]."""
    if isinstance(tensor, PackedTensor):
        if tensor.is_turned != is_turned:
            raise ValueError("its experts are packed the other way round than the model has them")
        return tensor.weights
    numbers = tensor.transpose(-1, -2) if is_turned else tensor
    return Weights("dense", numbers.dtype, numbers.shape[-1], numbers)


def joined(parts: list[Weights]) -> Weights:
    """The matrices one above the other; dense ones where their packed forms cannot be joined."""
    if can_join(parts):
        return joined_weights(parts)
    return joined_weights([Weights("dense", part.dtype, part.num_in, part.dense()) for part in parts])


def formed(weights: Weights, dtype: torch.dtype, quantization: Quantization | None) -> Weights:
    """A matrix as it is, or quantized where its widths can be."""
    if quantization is None or not quantization.fits(weights.num_out, weights.num_in):
        return weights.to(None, dtype)
    return encoded(weights.to(None, dtype), quantization.encode)


def layer_sources(model: Any, tensors: Mapping[str, Any]) -> tuple[list[LayerSource], dict[str, Any]]:
    """The sources of a model on the meta device, in the order of layers, and the tensors that are no experts'.

    `tensors`: of the files, by the names of an unpacked checkpoint. No sources, and all tensors, where some expert
    cannot be read one at a time.
    """
    found, names, rest = sources_of(model), set[str](), dict(tensors)
    for name, tensor in tensors.items():
        place = ONE.fullmatch(name) or ALL.fullmatch(name)
        source = None if place is None else found.get(int(place[1]))
        if place is None or source is None:
            continue
        if place.re is ONE:
            source.single[int(place[2]), PARTS.get(place[3], place[3])] = tensor
        else:
            source.fused[place[2]] = tensor
        names.add(name)
    if not found or not all(source.is_complete for source in found.values()):
        return [], rest
    for name in names:
        del rest[name]
    return [found[layer] for layer in sorted(found)], rest


def sources_of(model: Any) -> dict[int, LayerSource]:
    """Empty sources of a model's modules of experts, by the number of their layer; none if two have the same."""
    found: dict[int, LayerSource] = {}
    for name, module in expert_modules(model.named_modules()):
        place = LAYER.search(f".{name}.")
        if place is None or int(place[1]) in found:
            return {}
        down = module.down_proj
        found[int(place[1])] = LayerSource(name, module, len(down), activation_of(module))
    return found


def expert_modules(modules: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """Those whose products are ours, as expert_layer() has them."""
    for name, module in modules:
        if has_experts(module) and not getattr(module, "has_post_expert_norm", False):
            yield name, module
