"""Quantized products are close to the exact ones; every quantization runs a model, or is refused in a sentence."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from common.settings import ModelSettings
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.gpu_stand_ins import recorded
from worker.kernels.elementwise import FP8, to_fp8
from worker.kernels.fused import fused_linear
from worker.kernels.packed.encodings import fp8_weights
from worker.kernels.quantized import QUANTIZATIONS, Fp8, Int4, Int8, Quantization, quantization_named
from worker.kernels.quantized_linears import Fp8Linear
from worker.runners.decoder import DecoderRunner


def fp8_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Fp8Linear:
    return Fp8Linear(fp8_weights(weight), bias)


Kind = Callable[[torch.Tensor, torch.Tensor | None], Callable[[torch.Tensor], torch.Tensor]]


@pytest.mark.parametrize(("kind", "tolerance"), [(Int8().linear, 0.02), (Int4().linear, 0.15), (fp8_linear, 0.05)])
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_the_product_is_close_to_the_exact_one(kind: Kind, tolerance: float, num_rows: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16()
    inputs = torch.randn(num_rows, 64).bfloat16()
    exact = F.linear(inputs.float(), weight.float(), bias.float())
    deviation = (kind(weight, bias)(inputs).float() - exact).square().mean().sqrt() / exact.std()
    assert deviation < tolerance


@pytest.mark.parametrize("kind", [Int8().linear, Int4().linear, fp8_linear])
def test_few_rows_and_many_rows_agree(kind: Kind) -> None:
    torch.manual_seed(0)
    linear = kind(torch.randn(96, 64).bfloat16(), None)
    inputs = torch.randn(64, 64).bfloat16()
    torch.testing.assert_close(linear(inputs)[:4], linear(inputs[:4]), atol=0.25, rtol=0.02)


def test_every_quantization_is_a_value_of_the_setting() -> None:
    named = get_args(ModelSettings.model_fields["quantize"].annotation)
    assert named == ("", *(kind.name for kind in QUANTIZATIONS))
    assert [quantization_named(name) for name in named] == [None, *(kind() for kind in QUANTIZATIONS)]


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_quantized_model_answers(kind: type[Quantization], model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, quantization=kind()))
    assert isinstance(bench.engine.runner, DecoderRunner)
    bench.add("r", prompt_of(40), ignore_eos=True)
    bench.finish()
    assert len(bench.token_ids("r")) == 20


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(ValueError, match="'int3' is not a quantization; int8, int4, fp8 are."):
        quantization_named("int3")


def test_the_head_keeps_8_bits() -> None:
    assert Int4().for_head() == Int8() and Fp8().for_head() == Fp8()


def test_quantized_weights_replace_those_of_the_module() -> None:
    module = nn.Linear(70, 50, dtype=torch.bfloat16).requires_grad_(False)
    fused_linear([module], Int4())
    assert module.weight is None


@pytest.mark.parametrize("num_rows", [0, 1, 2, 64])
def test_fp8_multiplies_what_it_rounded_and_nothing_else(num_rows: int) -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(96, 64).bfloat16(), torch.randn(num_rows, 64).bfloat16() * 1000
    (rows, row_scale), (columns, column_scale) = to_fp8(inputs), to_fp8(weight)
    expected = (rows.float() * row_scale) @ (columns.float() * column_scale).T
    torch.testing.assert_close(fp8_linear(weight, None)(inputs), expected.bfloat16(), atol=0, rtol=2**-7)


def test_a_row_is_scaled_by_its_largest_number_and_zeros_stay_zeros() -> None:
    inputs = torch.stack([torch.linspace(-1, 1, 33), torch.linspace(-1e4, 1e4, 33), torch.zeros(33)]).bfloat16()
    rows, scale = to_fp8(inputs)
    assert rows.dtype == FP8 and scale.dtype == torch.float32 and tuple(scale.shape) == (3, 1)
    assert rows.float().abs().amax(dim=1).tolist() == [448, 448, 0]
    torch.testing.assert_close(rows.float() * scale, inputs.float(), atol=0, rtol=2**-4)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 64])
def test_a_gpu_accepts_the_arguments_of_the_fp8_product(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch checks layouts, types and scales of CUDA tensors without data."""
    monkeypatch.setattr("worker.kernels.elementwise.has_triton", lambda: False)  # a kernel needs data
    on_gpu = partial(torch.empty, dtype=torch.bfloat16, device="cuda")
    with FakeTensorMode(), torch.inference_mode():
        inputs = on_gpu(num_rows, 64)
        output = fp8_linear(on_gpu(96, 64), on_gpu(96))(inputs)
        assert (tuple(output.shape), output.dtype, output.device.type) == ((num_rows, 96), torch.bfloat16, "cuda")
        with pytest.raises(RuntimeError, match="divisible by 16"):
            fp8_linear(on_gpu(90, 64), None)(inputs)


def test_an_fp8_product_can_be_recorded_and_replayed() -> None:
    torch.manual_seed(0)
    linear = fp8_linear(torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16())
    first, second = torch.randn(2, 8, 64).bfloat16()
    inputs, outputs = first.clone(), torch.empty(8, 96, dtype=torch.bfloat16)

    def step() -> None:
        outputs.copy_(linear(inputs))

    replay = recorded(step)
    inputs.copy_(second * 100)
    replay()
    assert torch.equal(outputs, linear(second * 100))


def test_fp8_frees_the_weights_that_it_rounded_and_leaves_odd_widths_alone() -> None:
    fitting, odd = (nn.Linear(64, width, dtype=torch.bfloat16).requires_grad_(False) for width in (48, 50))
    assert isinstance(fused_linear([fitting, fitting], Fp8()), Fp8Linear) and fitting.weight is None
    assert not isinstance(fused_linear([odd], Fp8()), Fp8Linear) and odd.weight is not None


@pytest.mark.parametrize(
    ("quantization", "capability", "with_triton", "needed"),
    [(Fp8(), (8, 6), False, "8.9"), (Fp8(), (7, 5), True, "8.0"), (Int8(), (7, 5), True, "8.0")],
)
def test_a_gpu_without_the_product_is_refused_in_a_sentence(
    quantization: Quantization,
    capability: tuple[int, int],
    with_triton: bool,
    needed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("worker.kernels.quantized.has_triton", lambda: with_triton)
    found = ".".join(map(str, capability))
    with pytest.raises(
        ValueError, match=rf"{quantization.name} needs a GPU of compute capability {needed} .* has {found}\."
    ):
        quantization.check("auto", torch.device("cuda"))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0)])
@pytest.mark.parametrize("quantization", [Int8(), Int4()])
def test_a_gpu_with_triton_reads_int8_and_int4(
    quantization: Quantization, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    quantization.check("auto", torch.device("cuda"))
    with pytest.raises(ValueError, match="OMNI_QUANTIZE=int. computes in 16 bits on a GPU, not float32"):
        quantization.check("float32", torch.device("cuda"))
    monkeypatch.setattr("worker.kernels.linear.has_triton", lambda: False)
    with pytest.raises(ValueError, match=r"OMNI_QUANTIZE=int. needs Triton and an NVIDIA GPU, or a CPU"):
        quantization.check("auto", torch.device("cuda"))


def test_a_gpu_without_products_of_fp8_numbers_keeps_activations_in_bf16(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    Fp8().check("auto", torch.device("cuda"))
    assert "keeps activations in bf16" in caplog.text


def test_a_torch_without_the_fp8_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Fp8().check("auto", torch.device("cpu"))

    def scaled_mm(*_: object, **__: object) -> None:
        raise NotImplementedError("Rowwise scaling is not currently supported")

    monkeypatch.setattr("worker.kernels.quantized_linears.scaled_mm", scaled_mm)
    with pytest.raises(ValueError, match="OMNI_QUANTIZE=fp8 does not run on cpu .*Rowwise"):
        Fp8().check("auto", torch.device("cpu"))


def test_a_dtype_without_the_product_is_refused() -> None:
    with pytest.raises(ValueError, match="OMNI_DTYPE to auto or bfloat16"):
        Fp8().check("float16", torch.device("cpu"))
