"""Our C kernels give the products of the dense twin, in every form, width and number of rows."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from tests.worker.kernels.packed.weight_forms import FORMS, processor
from worker.kernels.native import NoKernels
from worker.kernels.packed import layout
from worker.kernels.packed.by_chunks import ByChunks
from worker.kernels.packed.cpu import CpuLinear, cpu_linear
from worker.kernels.packed.encodings import int8_weights
from worker.kernels.packed.layout import ROUNDED, LaidOut
from worker.kernels.packed.weights import Weights

__all__ = ["processor"]
pytestmark = pytest.mark.usefixtures("kernels")

WIDTHS = ((96, 64), (50, 100), (33, 1000))  # out, in


def cases(dtype: torch.dtype) -> Iterator[tuple[str, LaidOut, torch.Tensor, torch.Tensor]]:
    """Each form and width: the weights, their dense twin, and a bias."""
    torch.manual_seed(0)
    for name, make in FORMS.items():
        for num_out, num_in in WIDTHS:
            weights, bias = make(num_out, num_in, dtype), torch.randn(num_out).to(dtype)
            yield f"{name} {num_out}x{num_in}", LaidOut(weights, bias), weights.dense(), bias


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_exact_product_is_that_of_the_dense_twin(processor: str, dtype: torch.dtype) -> None:
    for name, packed, dense, bias in cases(dtype):
        for num_rows in (1, 2, 4, 7, 70):
            inputs = torch.randn(num_rows, packed.num_in).to(dtype)
            expected = F.linear(inputs.double(), dense.double(), bias.double())
            most = 1e-5 if dtype == torch.float32 else 5e-3
            assert deviation(packed.exact(inputs), expected) < most, (name, num_rows)
            assert deviation(packed.by_conversion(inputs), expected) < most, (name, num_rows)


def rounded(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs [T, in] as int8 codes times a scale for every ROUNDED of them."""
    num_in = inputs.shape[1]
    parts = F.pad(inputs, (0, -num_in % ROUNDED)).view(len(inputs), -1, ROUNDED)
    scale = parts.abs().amax(dim=-1, keepdim=True) / 127
    return ((parts / scale.clamp(min=1e-30)).round() * scale).flatten(1)[:, :num_in]


def test_in_float32_the_fine_product_is_far_nearer_than_the_rounded_one() -> None:
    for name, packed, dense, bias in cases(torch.float32):
        if not packed.can_round:
            pytest.skip("the processor has no VNNI")
        inputs = torch.randn(5, packed.num_in)
        expected = F.linear(inputs.double(), dense.double(), bias.double())
        assert deviation(packed.fine(inputs), expected) < 1e-4, name
        assert 2e-3 < deviation(packed.rounded(inputs), expected) < 0.03, name


def products_to_round() -> Iterator[tuple[str, LaidOut, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each case in bf16 with several numbers of inputs, some of them zero."""
    for name, packed, dense, bias in cases(torch.bfloat16):
        if not packed.can_round:
            pytest.skip("the processor has no VNNI")
        for num_rows in (1, 2, 3, 4, 5, 6, 13, 64):
            inputs = torch.randn(num_rows, packed.num_in).bfloat16()
            inputs[0, :40] = 0
            yield f"{name}, {num_rows} rows", packed, dense.double(), bias.double(), inputs


def test_the_rounded_product_rounds_its_inputs_and_nothing_else() -> None:
    for name, packed, dense, bias, inputs in products_to_round():
        expected = F.linear(rounded(inputs.float()).double(), dense, bias)
        assert deviation(packed.rounded(inputs), expected) < 5e-3, name
        assert 1e-3 < deviation(packed.exact(inputs), expected) < 0.02, name  # the control


def test_the_fine_product_is_as_near_to_the_exact_one_as_one_with_inputs_as_they_are() -> None:
    for name, packed, dense, bias, inputs in products_to_round():
        inputs[:, 5::ROUNDED] *= 20  # far larger than the others of their group
        expected = F.linear(inputs.double(), dense, bias)
        least = deviation(packed.exact(inputs), expected)
        assert deviation(packed.fine(inputs), expected) < 1.1 * least, name
        assert deviation(packed.rounded(inputs), expected) > 1.3 * least, name  # the control


def test_nothing_is_padded_but_the_last_panel_and_the_last_inputs() -> None:
    for name in ("int8", "Q4_0", "Q4_1", "Q8_0", "GPTQ"):
        weights = FORMS[name](512, 1024, torch.bfloat16)
        assert LaidOut(weights, None).num_bytes <= weights.num_bytes


def test_weights_are_multiplied_by_torch_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dtype: torch.dtype) -> None:
        raise NoKernels("there is no C compiler")

    monkeypatch.setattr(layout, "kernels_for", refuse)
    weights = int8_weights(torch.randn(48, 64))
    linear = cpu_linear(weights, None)
    assert isinstance(linear, ByChunks)
    inputs = torch.randn(3, 64)
    torch.testing.assert_close(linear(inputs), F.linear(inputs, weights.dense()))


def test_a_form_that_no_kernel_reads_is_multiplied_by_torch() -> None:
    weights = Weights("int8", torch.float32, 60, torch.ones(4, 60, dtype=torch.int8), torch.ones(4, 3), group=20)
    assert isinstance(cpu_linear(weights, None), ByChunks)
    assert isinstance(cpu_linear(int8_weights(torch.randn(4, 60)), None), CpuLinear)
