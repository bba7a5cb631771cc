"""Triton's interpreter, made to round as a GPU does."""

from typing import Any

import numpy as np
import pytest
import torch

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by bytes of a number


@pytest.fixture(autouse=True)
def rounds_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts bf16 off, and loses the carry of fp8: 1.97 becomes 1."""
    monkeypatch.setattr("triton.runtime.interpreter._convert_float", converted)


def converted(numbers: Any, source: Any, target: Any, rounding: Any) -> Any:
    """Numbers, an array of floats or of the bits of `source`, as bits of `target`; rounded to nearest, ties to even."""
    given = torch.from_numpy(np.ascontiguousarray(numbers))
    wide = (given if given.is_floating_point() else given.view(DTYPES[source.name])).float()
    rounded = wide.to(DTYPES[target.name])
    bits = rounded.view(BITS[rounded.element_size()]).numpy()
    return bits.view(f"uint{8 * bits.itemsize}").reshape(numbers.shape)
