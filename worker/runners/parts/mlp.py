"""A decoder layer's MLP: dense, or sparse with routed experts and what all tokens share; read from its module."""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from worker.kernels.elementwise import ACTIVATIONS
from worker.kernels.experts.activation import activation_name
from worker.kernels.experts.layer import Encode, ExpertLayer, Experts, ExpertsBeside, expert_layer
from worker.kernels.experts.swap import experts_of, product_of
from worker.kernels.fused import PackedBefore, fused_linear
from worker.kernels.linear import Linear
from worker.kernels.quantized import Quantization
from worker.runners.parts.native_router import NativeRouter
from worker.runners.parts.routers import Router, router_of
from worker.runners.probe import Unsupported

GATE_UP, FUSED_GATE_UP = ("gate_proj", "up_proj"), ("gate_up_proj",)
ROUTERS = ("gate", "router")  # names of the part of a sparse MLP that chooses
SHARED = ("shared_experts", "shared_expert")  # names of a dense MLP beside the experts
SHARED_GATE = "shared_expert_gate"

AddShared = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]  # see add_shared()
Gated = Callable[[torch.Tensor, str], torch.Tensor]  # [T, 2 * width], activation -> [T, width]
Product = tuple[tuple[str, ...], Any, tuple[str, ...]]  # path of attributes to it, its linear layers' owner and names


@dataclass(frozen=True, slots=True, eq=False)
class DenseMlp:
    """Gate and up projections are one product."""

    gate_up: Linear
    activation: str  # of ACTIVATIONS
    down: Linear

    def __call__(self, normed: torch.Tensor, gated: Gated) -> torch.Tensor:
        """[T, width] -> [T, width]. `gated`: what computes the activation."""
        return self.down(gated(self.gate_up(normed), self.activation))

    @property
    def products(self) -> list[Linear | Experts]:
        """In the order in which they are made."""
        return [self.gate_up, self.down]


def add_shared(out: torch.Tensor, shared: torch.Tensor, gates: torch.Tensor | None) -> torch.Tensor:
    """out [T, width] += shared, each row times the sigmoid of its gate, [T, 1], if there are gates. In place."""
    return out.add_(shared) if gates is None else out.addcmul_(shared, gates.sigmoid())


@dataclass(frozen=True, slots=True, eq=False)
class SparseMlp:
    """Each token takes the experts that the router chooses, and what is shared."""

    router: Router | NativeRouter
    experts: Experts
    shared: DenseMlp | None
    shared_gate: Linear | None  # [T, width] -> [T, 1]: the shared part's weight is its sigmoid
    add_shared: AddShared = add_shared

    def __call__(self, normed: torch.Tensor, gated: Gated) -> torch.Tensor:
        """As a DenseMlp."""
        out = torch.empty_like(normed)
        if len(normed) == 0:  # of a step that wants no logits, in its last layer
            return out
        chosen, weights = self.router(normed)
        if not isinstance(self.experts, ExpertsBeside):
            self.experts(normed, chosen, weights, out)
            finish = None
        else:
            finish = self.experts.begin(normed, chosen, weights, out)
        shared = None if self.shared is None else self.shared(normed, gated)
        gates = None if self.shared_gate is None else self.shared_gate(normed)
        if finish is not None:
            finish()
        return out if shared is None else self.add_shared(out, shared, gates)

    @property
    def products(self) -> list[Linear | Experts]:
        """In the order in which they are made; without the router's, whose weights stay in the module."""
        shared = [] if self.shared is None else self.shared.products
        return [self.experts, *shared, *([] if self.shared_gate is None else [self.shared_gate])]


Mlp = DenseMlp | SparseMlp


def mlp_of(module: Any, quantization: Quantization | PackedBefore | None = None) -> Mlp:
    """Raises Unsupported for an MLP with other parts than those computed here."""
    return sparse_mlp(module, quantization) if hasattr(module, "experts") else dense_mlp(module, quantization)


def dense_mlp(mlp: Any, quantization: Quantization | PackedBefore | None) -> DenseMlp:
    names = gate_up_names(mlp)
    own = "act_fn" if hasattr(mlp, "act_fn") else "activation_fn"
    check_parts(mlp, {*names, "down_proj", own})
    activation = getattr(mlp, own)
    check_are_plain(mlp, {*names, "down_proj"})
    if (name := activation_name(activation)) is None:
        raise Unsupported(f"its activation {type(activation).__name__} is none of {', '.join(ACTIVATIONS)}")
    linear = partial(fused_linear, quantization=quantization)
    return DenseMlp(linear([getattr(mlp, each) for each in names]), name, linear([mlp.down_proj]))


def sparse_mlp(mlp: Any, quantization: Quantization | PackedBefore | None) -> SparseMlp:
    router, shared = (next((name for name in names if hasattr(mlp, name)), None) for names in (ROUTERS, SHARED))
    if router is None:
        raise Unsupported(f"{type(mlp).__name__} has no router among its parts")
    has_gate = hasattr(mlp, SHARED_GATE)
    check_parts(mlp, {router, "experts", *([shared] if shared else []), *([SHARED_GATE] if has_gate else [])})
    return SparseMlp(
        router_of(getattr(mlp, router)),
        experts_product(mlp.experts, quantization),
        dense_mlp(getattr(mlp, shared), quantization) if shared else None,
        fused_linear([getattr(mlp, SHARED_GATE)], quantization) if has_gate else None,
    )


def experts_product(module: Any, quantization: Quantization | PackedBefore | None) -> Experts:
    """What the module computes by already, or the fastest way. Raises Unsupported."""
    if isinstance(quantization, PackedBefore):
        return quantization.take_experts()
    if (product := product_of(module)) is not None:
        return product
    if (layer := expert_layer(module)) is None:
        raise Unsupported(f"{type(module).__name__} has other experts than those computed here")
    return experts_of(layer, encode_for(quantization, layer))


def encode_for(quantization: Quantization | None, layer: ExpertLayer) -> Encode | None:
    """How the layer's experts are quantized; None for such as stay as they are."""
    if quantization is None:
        return None
    can = all(quantization.fits(part.num_out, part.num_in) for part in (layer.up, layer.down))
    return quantization.encode if can else None


def gate_up_names(mlp: Any) -> tuple[str, ...]:
    return FUSED_GATE_UP if hasattr(mlp, FUSED_GATE_UP[0]) else GATE_UP


def mlp_parts(mlp: Any, path: tuple[str, ...] = ("mlp",)) -> Iterator[Product]:
    """The products of linear layers in an Mlp; experts are none."""
    if not hasattr(mlp, "experts"):
        yield (*path, "gate_up"), mlp, gate_up_names(mlp)
        yield (*path, "down"), mlp, ("down_proj",)
        return
    if (shared := next((name for name in SHARED if hasattr(mlp, name)), None)) is not None:
        yield from mlp_parts(getattr(mlp, shared), (*path, "shared"))
    if hasattr(mlp, SHARED_GATE):
        yield (*path, "shared_gate"), mlp, (SHARED_GATE,)


def check_parts(module: Any, expected: Set[str]) -> None:
    """Raises Unsupported unless the module has exactly these parts, besides dropout, which serving leaves out."""
    found = {name for name, part in module.named_children() if not isinstance(part, nn.Dropout)}
    if found != expected:
        raise Unsupported(f"{type(module).__name__} has the parts {sorted(found)}")


def check_are_plain(module: Any, names: Set[str]) -> None:
    """Raises Unsupported unless these parts are plain linear layers; a quantized layer has scales too."""
    for name in sorted(names):
        kind = type(module.get_submodule(name))
        if kind is not nn.Linear:
            raise Unsupported(f"{name} is a {kind.__name__}")
