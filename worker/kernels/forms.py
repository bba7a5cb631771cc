"""Products as JSON and named tensors, so that they can be kept and made again without packing anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm, MatrixForm
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.experts.mapped import MappedExperts
from worker.kernels.linear import PackedLinear, PlainLinear
from worker.kernels.packed.by_chunks import ByChunks
from worker.kernels.packed.cpu import CpuLinear
from worker.kernels.packed.dense import NarrowLinear, PairsLinear
from worker.kernels.packed.layout import LaidOut
from worker.kernels.packed.linear import Reordered, SideBySide
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights
from worker.kernels.torch_seams import bytes_of_opaque, is_opaque, opaque_tensor

BOUND = ("dtype", "kernels", "function", "values", "c_layer")  # of CpuExperts
# What bind() sets again is left out.
KINDS: Mapping[str, tuple[Any, tuple[str, ...]]] = MappingProxyType(
    {
        "plain": (PlainLinear, ()),
        "packed": (PackedLinear, ("_multiply",)),
        "pairs": (PairsLinear, ("_multiply",)),
        "narrow": (NarrowLinear, ("_multiply",)),
        "cpu": (CpuLinear, ()),
        "laid_out": (LaidOut, ("kernels", "packed", "address")),
        "experts": (CpuExperts, BOUND),
        "mapped_experts": (MappedExperts, ("tensors", *BOUND)),
        "experts_form": (ExpertsForm, ()),
        "matrix_form": (MatrixForm, ()),
        "activation": (Activation, ()),
        "by_chunks": (ByChunks, ()),
        "reordered": (Reordered, ()),
        "side_by_side": (SideBySide, ()),
        "weights": (Weights, ()),
        "looped_experts": (LoopedExperts, ()),
    }
)


class NoForm(TypeError):
    """Something that cannot be kept."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors by name, and how their owners let go of each."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    releases: dict[str, Callable[[], None]] = field(default_factory=dict)

    def add(self, name: str, tensor: torch.Tensor, release: Callable[[], None]) -> None:
        self.tensors[name] = tensor
        self.releases[name] = release


def form_of(thing: Any, name: str, parts: Parts, release: Callable[[], None] = lambda: None) -> Any:
    """`thing` as JSON; its tensors are added to `parts` under names that begin with `name`. Raises NoForm."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, torch.dtype):
        return {"dtype": str(thing).removeprefix("torch.")}
    if isinstance(thing, PackedTensor):
        return {"turned": thing.is_turned, "tensor_of": form_of(thing.weights, name, parts)}
    if isinstance(thing, torch.Tensor):
        return form_of_tensor(thing, name, parts, release)
    if isinstance(thing, list | tuple):
        return {"list": [form_of(each, f"{name}.{at}", parts) for at, each in enumerate(thing)]}
    if isinstance(thing, dict):
        return {
            "pairs": [[form_of(key, name, parts), form_of(each, f"{name}.{key}", parts)] for key, each in thing.items()]
        }
    for kind, (known, left_out) in KINDS.items():
        if type(thing) is known:
            names = getattr(known, "__slots__", None) or vars(thing)
            fields = {
                own: form_of(getattr(thing, own), f"{name}.{own}", parts, partial(set_field, thing, own, None))
                for own in names
                if own not in left_out
            }
            return {"kind": kind, "fields": fields}
    raise NoForm(f"{type(thing).__name__} cannot be kept")


def form_of_tensor(tensor: torch.Tensor, name: str, parts: Parts, release: Callable[[], None]) -> Any:
    """Raises NoForm for a subclass, or one on another device."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        raise NoForm(f"a {type(tensor).__name__} on {tensor.device} cannot be kept")
    if not is_opaque(tensor):
        parts.add(name, tensor.detach(), release)
        return {"tensor": name}
    numbers, description = bytes_of_opaque(tensor)
    parts.add(name, numbers, release)
    parts.add(f"{name}.description", description, lambda: None)
    return {"opaque": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def made_of(form: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What form_of() had, on these tensors."""
    if not isinstance(form, dict):
        return form
    if "tensor" in form:
        return tensors[form["tensor"]]
    if "opaque" in form:
        name, dtype = form["opaque"], getattr(torch, form["dtype"])
        return opaque_tensor(tensors[name], tensors[f"{name}.description"], form["shape"], dtype)
    if "dtype" in form:
        return getattr(torch, form["dtype"])
    if "tensor_of" in form:
        return PackedTensor(made_of(form["tensor_of"], tensors), form["turned"])
    if "list" in form:
        return [made_of(each, tensors) for each in form["list"]]
    if "pairs" in form:
        return {made_of(key, tensors): made_of(each, tensors) for key, each in form["pairs"]}
    known, _ = KINDS[form["kind"]]
    thing = known.__new__(known)
    for own, each in form["fields"].items():
        set_field(thing, own, made_of(each, tensors))
    if (bind := getattr(thing, "bind", None)) is not None:
        bind()
    return thing


def set_field(thing: object, name: str, value: object) -> None:
    """Of frozen dataclasses too."""
    object.__setattr__(thing, name, value)
