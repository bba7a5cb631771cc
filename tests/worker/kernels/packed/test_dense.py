"""The C kernel for bf16 weights multiplies what torch multiplies; other weights and processors stay with oneDNN."""

import pytest
import torch
from torch.nn import functional as F

from worker.kernels.linear import PackedLinear, can_pack
from worker.kernels.native import NoKernels, processor_features
from worker.kernels.packed import dense
from worker.kernels.packed.dense import NarrowLinear, PairsLinear, dense_cpu_linear

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.skipif("avx512_bf16" not in processor_features().split(), reason="the processor multiplies no pairs")
@pytest.mark.parametrize(("num_out", "num_in"), [(16, 16), (48, 64), (160, 896)])
def test_the_product_is_the_exact_one_rounded(num_out: int, num_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "processor_features", lambda: "avx512_bf16")
    torch.manual_seed(0)
    weight = torch.randn(num_out, num_in).bfloat16()
    for bias in (None, torch.randn(num_out).bfloat16()):
        linear = dense_cpu_linear(weight, bias)
        assert isinstance(linear, PairsLinear)
        for num_rows in (0, 1, 2, 3, 4, 5, 6, 7, 17, 70):
            inputs = torch.randn(num_rows, num_in).bfloat16()
            exact = F.linear(inputs.double(), weight.double(), None if bias is None else bias.double())
            torch.testing.assert_close(linear(inputs).double(), exact, rtol=2**-8, atol=1e-3 * num_in**0.5)


def test_other_weights_and_processors_with_tiles_stay_with_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [torch.randn(48, 64), torch.randn(50, 64).bfloat16(), torch.randn(48, 50).bfloat16()]
    monkeypatch.setattr(dense, "processor_features", lambda: "avx512_bf16 amx_bf16")
    for weight in (*others, torch.randn(48, 64).bfloat16()):
        with pytest.raises(NoKernels):
            PairsLinear(weight, None)
        if can_pack(weight.dtype):
            assert isinstance(dense_cpu_linear(weight, None), PackedLinear)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_few_outputs_are_multiplied_by_weights_as_they_are(dtype: torch.dtype) -> None:
    weight, bias = torch.randn(3, 160).to(dtype), torch.randn(3).to(dtype)
    linear, inputs = dense_cpu_linear(weight, bias), torch.randn(7, 160).to(dtype)
    assert isinstance(linear, NarrowLinear)
    exact = F.linear(inputs.double(), weight.double(), bias.double())
    torch.testing.assert_close(linear(inputs).double(), exact, rtol=2**-8, atol=1e-5)
    with pytest.raises(NoKernels):
        NarrowLinear(weight[:, :150], None)
