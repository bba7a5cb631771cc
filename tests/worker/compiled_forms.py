"""Which forms of the kernels a GPU would have to compile, found without one: by Triton's own rules, on a CPU."""

import inspect
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from triton._C.libtriton import native_specialize_impl
from triton.backends.compiler import BaseBackend
from triton.runtime.interpreter import InterpretedFunction

Form = tuple[Hashable, ...]


def form_of(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_annotated: bool = True) -> Form:
    """What triton.runtime.jit looks a compiled kernel up by: of each argument its constant, or type and divisibility.

    `is_annotated`: with the kernel's do_not_specialize; for controls without.
    """
    parameters = inspect.signature(kernel.fn).parameters
    names = {key: value for key, value in kwargs.items() if key in parameters}
    options = tuple(sorted((key, value) for key, value in kwargs.items() if key not in parameters))
    unspecialized = (kernel.kwargs.get("do_not_specialize") or ()) if is_annotated else ()
    unaligned = (kernel.kwargs.get("do_not_specialize_on_alignment") or ()) if is_annotated else ()
    form: list[Hashable] = []
    for name, value in inspect.signature(kernel.fn).bind(*args, **names).arguments.items():
        if "constexpr" in str(parameters[name].annotation):
            form.append((name, value))
        else:
            takes_value, takes_address = name not in unspecialized, name not in unaligned
            form.append((name, *native_specialize_impl(BaseBackend, value, False, takes_value, takes_address)))
    return (*form, *options)


class Forms:
    """The forms that were launched while this was active, by kernel. Nothing is computed; outputs are zeros."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_annotated: bool = True) -> None:
        self.found: dict[str, set[Form]] = defaultdict(set)
        forms = self

        def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            forms.found[self.fn.__name__].add(form_of(self, args, kwargs, is_annotated=is_annotated))

        monkeypatch.setattr(InterpretedFunction, "run", run)
        monkeypatch.setattr(torch, "empty", torch.zeros)

    def beyond(self, known: dict[str, set[Form]]) -> dict[str, int]:
        """How many forms of each kernel are not among those `known`."""
        new = {name: len(forms - known.get(name, set())) for name, forms in self.found.items()}
        return {name: number for name, number in new.items() if number}

    def taken(self) -> dict[str, set[Form]]:
        """What was found so far; nothing is from now on."""
        found, self.found = dict(self.found), defaultdict(set)
        return found
