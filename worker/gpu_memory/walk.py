"""Finds the tensors that objects hold, whatever their classes: each storage once, with all tensors that look at it."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)  # tensors of other classes wrap such ones, or nothing
NOT_ENTERED = (type, ModuleType, CodeType, FrameType, str, bytes, int, float)


@dataclass(slots=True)
class HeldStorage:
    """One storage."""

    storage: torch.UntypedStorage
    tensors: list[torch.Tensor] = field(default_factory=list)

    def put_on(self, storage: torch.UntypedStorage, first: int) -> None:
        """Let the tensors look at the same bytes from byte `first` of another storage on."""
        for tensor in self.tensors:
            at = first // tensor.itemsize + tensor.storage_offset()
            tensor.set_(storage, at, tensor.size(), tensor.stride())
        self.storage = storage


def storages_in(roots: tuple[object, ...], device: torch.device, least_bytes: int, *apart: type) -> list[HeldStorage]:
    """On this device, in the order in which they are found; nothing of what only objects of the types `apart` hold."""
    found: dict[int, HeldStorage] = {}
    for thing in objects_in(roots, *apart):
        if type(thing) in PLAIN and isinstance(thing, torch.Tensor) and is_there(thing, device):
            storage = thing.untyped_storage()
            if storage.nbytes() >= least_bytes:
                found.setdefault(storage.data_ptr(), HeldStorage(storage)).tensors.append(thing)
    return list(found.values())


def is_there(tensor: torch.Tensor, device: torch.device) -> bool:
    """As numbers in a row of bytes, on this device."""
    is_here = tensor.device.type == device.type and tensor.device.index in (device.index, None)
    return is_here and tensor.layout == torch.strided and tensor.data_ptr() != 0


def objects_in(roots: tuple[object, ...], *apart: type) -> Iterator[Any]:
    """All that the roots hold, directly or through others, but no modules, classes and globals; `apart` unentered."""
    seen, todo = set[int](), list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, NOT_ENTERED):
            continue
        seen.add(id(thing))
        yield thing
        if not isinstance(thing, apart):
            todo += parts_of(thing)


def parts_of(thing: object) -> list[object]:
    if isinstance(thing, FunctionType):  # its globals are everybody's
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__]
    return gc.get_referents(thing)
