"""Which forms of the kernels a GPU would have to compile, found on a CPU by the binder of Triton's JIT."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, create_function_from_signature

H100 = GPUTarget("cuda", 90, 32)
ANNOTATIONS = ("do_not_specialize", "do_not_specialize_on_alignment")


def binder_of(kernel: Any, *, is_annotated: bool) -> Callable[..., Any]:
    """Of an interpreted kernel, as it would be bound for an H100; for controls without its do_not_specialize."""
    annotations = {name: kernel.kwargs.get(name) for name in ANNOTATIONS if is_annotated}
    jitted = JITFunction(kernel.fn, **annotations)
    bind: Callable[..., Any] = create_function_from_signature(jitted.signature, jitted.params, CUDABackend(H100))
    return bind


class Forms:
    """The forms that were launched while this was active, by kernel. Nothing is computed; outputs are zeros."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_annotated: bool = True) -> None:
        self.found: dict[str, set[str]] = defaultdict(set)
        forms, binders = self, dict[str, Callable[..., Any]]()

        def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            name = self.fn.__name__
            if name not in binders:
                binders[name] = binder_of(self, is_annotated=is_annotated)
            _, specialization, options = binders[name](*args, **kwargs)
            forms.found[name].add(f"{specialization} {options}")  # as triton.runtime.jit looks them up

        monkeypatch.setattr(InterpretedFunction, "run", run)
        monkeypatch.setattr(torch, "empty", torch.zeros)

    def beyond(self, known: dict[str, set[str]]) -> dict[str, int]:
        """How many forms of each kernel are not among those `known`."""
        new = {name: len(forms - known.get(name, set())) for name, forms in self.found.items()}
        return {name: number for name, number in new.items() if number}

    def taken(self) -> dict[str, set[str]]:
        """What was found so far; from now on it starts anew."""
        found, self.found = dict(self.found), defaultdict(set)
        return found
