"""Packed weights of random codes in every form that the C kernels read, and the processors they are compiled for."""

from collections.abc import Callable, Iterator

import pytest
import torch

from worker.kernels import native
from worker.kernels.packed import layout
from worker.kernels.packed.encodings import int4_weights, int8_weights
from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.weights import Weights

Maker = Callable[[int, int, torch.dtype], Weights]  # outputs, inputs


def codes(num_out: int, num_in: int, stop: int) -> torch.Tensor:
    return torch.randint(0, stop, (num_out, num_in), dtype=torch.uint8)


def scales(num_out: int, num_in: int, group: int) -> torch.Tensor:
    return (torch.rand(num_out, -(-num_in // group)) + 0.1).half()


def grouped(bits: int, group: int, *, has_minimums: bool = False, has_zeros: bool = False) -> Maker:
    def make(num_out: int, num_in: int, dtype: torch.dtype) -> Weights:
        minimums = -2 * scales(num_out, num_in, group) if has_minimums else None
        zeros = codes(num_out, -(-num_in // group), 1 << bits) if has_zeros else None
        found, each = codes(num_out, num_in, 1 << bits), scales(num_out, num_in, group)
        return grouped_weights(found, each, group, bits, dtype, zeros=zeros, minimums=minimums)

    return make


def mxfp4(num_out: int, num_in: int, dtype: torch.dtype) -> Weights:
    half = -(-num_in // 64) * 32
    exponents = torch.randint(115, 130, (num_out, half // 16), dtype=torch.uint8)
    return Weights("mxfp4", dtype, num_in, codes(num_out, half, 256), exponents, group=32)


FORMS: dict[str, Maker] = {
    "int8": lambda num_out, num_in, dtype: int8_weights(torch.randn(num_out, num_in).to(dtype)),
    "int4 with offsets": lambda num_out, num_in, dtype: int4_weights(torch.randn(num_out, num_in).to(dtype), 32),
    "Q4_0": grouped(4, 32),
    "Q4_1": grouped(4, 32, has_minimums=True),
    "Q5_1": grouped(5, 32, has_minimums=True),
    "Q6_K": grouped(6, 16),
    "Q8_0": grouped(8, 32),
    "GPTQ": grouped(4, 128, has_zeros=True),
    "mxfp4": mxfp4,
}


@pytest.fixture(params=["as it is", "without AVX512"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This one, and what its kernels do on one without AVX512."""
    if request.param != "as it is":
        if "avx2" not in native.processor_features().split():
            pytest.skip("the processor has no AVX2")
        monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-march=x86-64-v3", "-Wno-psabi"))
    layout.kernels_for.cache_clear()
    yield request.param
    layout.kernels_for.cache_clear()
