"""A step on a CPU as a list of calls of C kernels, which replay.c makes without Python between them.

Python's code and objects do not stay in the processor's caches while a step reads its weights: what takes 8
microseconds in a loop takes 40 in a step.
"""

import ctypes
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from worker.kernels.native import FLOAT, REPLAYED, SIGNATURES, listening

MAX_ARGUMENTS = 20  # of replay.c
AS_BITS: Mapping[bool, Any] = MappingProxyType({True: ctypes.c_float, False: ctypes.c_int64})


class CCall(ctypes.Structure):
    """Call of replay.c."""

    _fields_ = (("kernel", ctypes.c_int64), ("arguments", ctypes.c_int64 * MAX_ARGUMENTS))


class NotRecorded(Exception):
    """A step that computes by something else than the kernels."""


class StepMemory:
    """The memory of what recorded steps compute: that of tensors which are gone is given to later ones.

    Steps of all sizes share it, as one runs at a time.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.blocks: list[tuple[torch.Tensor, weakref.ref[torch.Tensor] | None]] = []

    def forget(self) -> None:
        """All of it is free for another step."""
        self.blocks = [(block, None) for block, _ in self.blocks]

    def take(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """[T, ...], uninitialized; raises NotRecorded for more than `max_tokens`."""
        if not shape or shape[0] > self.max_tokens:
            raise NotRecorded(f"it makes a tensor of {tuple(shape)}")
        wanted = (self.max_tokens, *shape[1:])
        at = next((at for at, found in enumerate(self.blocks) if is_free(*found, wanted, dtype)), len(self.blocks))
        if at == len(self.blocks):
            self.blocks.append((torch.empty(wanted, dtype=dtype), None))
        block, _ = self.blocks[at]
        taken = block[: shape[0]]
        self.blocks[at] = (block, weakref.ref(taken))
        return taken


def is_free(
    block: torch.Tensor, owner: "weakref.ref[torch.Tensor] | None", shape: tuple[int, ...], dtype: torch.dtype
) -> bool:
    """True for a block of this form whose owner is gone."""
    return (owner is None or owner() is None) and (block.shape, block.dtype) == (shape, dtype)


class OnlyKernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this, torch makes tensors in the memory and computes nothing: else NotRecorded is raised."""

    MAKES = frozenset(
        {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}
    )

    def __init__(self, memory: StepMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.MAKES:
            raise NotRecorded(f"torch computes {func}")
        made = func(*args, **{**(kwargs or {}), "device": "meta"})
        return self.memory.take(made.shape, made.dtype)


class Program:
    """Calls of kernels, in order."""

    def __init__(self) -> None:
        self.calls: Any = []  # CCalls; an array of them once they are recorded
        self.owners: list[Any] = []  # of structures that calls are given

    @contextmanager
    def recording(self, memory: StepMemory) -> Iterator[None]:
        """Within this, calls of kernels by this thread are made and recorded. Raises NotRecorded."""
        memory.forget()
        listening().to = self._add
        try:
            with OnlyKernels(memory):
                yield
        finally:
            listening().to = None
        self.calls = (CCall * len(self.calls))(*self.calls)

    def _add(self, name: str, arguments: tuple[Any, ...]) -> None:
        call = CCall(REPLAYED.index(name))
        for at, (kind, value) in enumerate(zip(SIGNATURES[name], arguments, strict=True)):
            if hasattr(value, "_obj"):  # ctypes.byref()
                self.owners.append(value._obj)
                value = ctypes.addressof(value._obj)
            number = AS_BITS[kind is FLOAT](value or 0)
            ctypes.memmove(ctypes.byref(call.arguments, 8 * at), ctypes.byref(number), ctypes.sizeof(number))
        self.calls.append(call)

    def run(self, kernels: ctypes.CDLL) -> None:
        kernels.replay(self.calls, len(self.calls))
