"""Triton's interpreter, made quicker and to round as a GPU does, and a count of what a step would launch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import getmembers
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
}
BEYOND_FP8 = 464  # halfway to what would follow 448
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by bytes of a number


@pytest.fixture
def rounds_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts bf16 off, and loses the carry of fp8: 1.97 becomes 1."""
    monkeypatch.setattr("triton.runtime.interpreter._convert_float", converted)


def converted(numbers: Any, source: Any, target: Any, rounding: Any) -> Any:
    """Numbers, an array of floats or of the bits of `source`, as bits of `target`; rounded to nearest, ties to even.

    A kernel has to limit numbers to the range of fp8 itself: here those beyond it are NaN.
    """
    given = torch.from_numpy(np.ascontiguousarray(numbers))
    wide = (given if given.is_floating_point() else given.view(DTYPES[source.name])).float()
    if target.name == "fp8e4nv":
        wide = wide.masked_fill(wide.abs() > BEYOND_FP8, torch.nan)  # torch limits them, from some release on
    rounded = wide.to(DTYPES[target.name])
    bits = rounded.view(BITS[rounded.element_size()]).numpy()
    return bits.view(f"uint{8 * bits.itemsize}").reshape(numbers.shape)


def make_quicker() -> None:
    """Have the interpreter exchange the functions of Triton's language once a launch.

    It does so at each call of a device function too, and looks through all members of the language each time: half of
    what these tests computed.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    exchange, new_scope = interpreter._patch_lang, interpreter._LangPatchScope
    launch, exchanged = new_scope(), set[str]()

    @cache
    def builtins_of(owner: Any) -> list[tuple[str, Any]]:
        return [(name, member) for name, member in getmembers(owner) if tl.core.is_builtin(member)]

    def exchange_builtins(owner: Any, builder: Any, scope: Any) -> None:
        for name, member in builtins_of(owner):
            interpreter._patch_attr(owner, name, member, builder, scope)

    def exchange_once(function: Any) -> Any:
        nonlocal launch
        seen = {value.__name__ for value in function.__globals__.values() if value is tl or value is tl.core}
        is_within = bool(launch._changes)  # empty once the launch has put the functions back
        if is_within and seen <= exchanged:
            return new_scope()
        if not is_within:
            exchanged.clear()
        exchanged.update(seen)
        scope = exchange(function)
        launch = launch if is_within else scope
        return scope

    interpreter._patch_builtin, interpreter._patch_lang = exchange_builtins, exchange_once


class Launches(TorchDispatchMode):
    """Names of the kernels that a GPU would run: torch's operators but for views and allocations, and ours."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._is_interpreting = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._is_interpreting and not is_view(func) and "empty" not in func._schema.name:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def launch(self, name: str) -> Iterator[None]:
        """What the interpreter does with torch is not counted."""
        self.names.append(name)
        self._is_interpreting = True
        yield
        self._is_interpreting = False


def is_view(func: Any) -> bool:
    """True if the result is the argument's memory, as it is."""
    if func is torch.ops.aten.detach_.default:
        return True
    returned = func._schema.returns[0].alias_info if func._schema.returns else None
    return returned is not None and not returned.is_write


@contextmanager
def counted_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The list to which launches add themselves while this is active."""
    from triton.runtime.interpreter import GridExecutor

    with Launches() as launches, monkeypatch.context() as patch:
        launch = GridExecutor.__call__

        def call(self: Any, *args: Any, **kwargs: Any) -> None:
            with launches.launch(self.fn.__name__):
                launch(self, *args, **kwargs)

        patch.setattr(GridExecutor, "__call__", call)
        yield launches.names
