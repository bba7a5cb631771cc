"""What stays of a model's modules besides their products: embeddings, norms, computed buffers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from common.wire import ModelCard
from worker.kept.keep import Keep
from worker.kept.tensors import BrokenMemory, KeptTensors
from worker.kernels.forms import NoForm, Parts, form_of, made_of


class KeptFault(RuntimeError):
    """Kept weights that do not compute what they did: they are dropped, and the model is loaded anew."""


@dataclass(frozen=True)
class KeptModel:
    """Where a model's weights are kept."""

    keep: Keep
    key: str
    found: KeptTensors | None = field(default=None, repr=False)  # of a model that was restored

    @property
    def name(self) -> str:
        return f"weights:{self.key}"


def kept_model(keep: Keep, key: str | None) -> KeptModel | None:
    """What another process has kept, or the place for it; None without a key."""
    if key is None:
        return None
    kept = KeptModel(keep, key)
    memory = keep.find(kept.name)
    if memory is None:
        return kept
    try:
        return KeptModel(keep, key, KeptTensors(memory))
    except (BrokenMemory, ValueError, KeyError, OSError):
        keep.drop(kept.name)
        return kept


def card_of(fields: Mapping[str, Any]) -> ModelCard:
    """The card that was kept as JSON."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return ModelCard(**values)


def state_form(model: nn.Module, parts: Parts) -> Any:
    """The parameters and buffers that the model still has, as JSON and tensors; tied ones once. Raises NoForm."""
    if getattr(model, "is_quantized", False):
        raise NoForm("a library's packed weights cannot be kept")
    forms: dict[str, Any] = {}
    seen: dict[int, str] = {}
    for owner_name, owner in model.named_modules():
        if any(isinstance(value, torch.Tensor) for value in vars(owner).values()):
            raise NoForm(f"{owner_name} has tensors that are neither parameters nor buffers")
        for last, tensor in tensors_of(owner):
            name = f"{owner_name}.{last}".removeprefix(".")
            if id(tensor) in seen:
                forms[name] = forms[seen[id(tensor)]]
                continue
            seen[id(tensor)] = name
            value = tensor.data if isinstance(tensor, nn.Parameter) else tensor
            forms[name] = form_of(value, f"model.{name}", parts)
    return {"tensors": forms, "parameters": [name for name, _ in model.named_parameters(remove_duplicate=False)]}


def tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's own parameters and buffers."""
    for found in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in found.items() if tensor is not None)


def put_state(model: nn.Module, form: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a model the state that state_form() has seen, and nothing else. Raises KeptFault if parts are missing."""
    for module in model.modules():
        for name, _ in list(tensors_of(module)):
            if name in module._parameters:
                module._parameters[name] = None
    made: dict[str, Any] = {}
    parameters = frozenset(form["parameters"])
    for name, each in form["tensors"].items():
        key = str(each)
        if key not in made:
            made[key] = made_of(each, tensors)
            if name in parameters:
                made[key] = nn.Parameter(made[key], requires_grad=False)
        owner_name, _, last = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        (owner._parameters if name in parameters else owner._buffers)[last] = made[key]
    missing = [name for name, tensor in model.named_buffers() if tensor.device.type == "meta"]
    if missing:
        raise KeptFault(f"{missing[0]} was not kept")
