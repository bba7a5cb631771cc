"""Checkpoints of NVIDIA's Model Optimizer, written by hand as its exporter writes them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import Packed, check_twins, save_twins
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.known import format_of
from worker.models.formats.nvfp4 import ModelOpt

PACKING = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8"}
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
MATRIX = torch.randn(128, 256, generator=torch.Generator().manual_seed(1))


def nvfp4(name: str, matrix: torch.Tensor) -> Packed:
    """Two levels of scales: e4m3 for 16 columns, float32 for all."""
    whole = matrix.abs().amax() / (448 * 6)
    groups = matrix.unflatten(1, (-1, 16))
    scales = (groups.abs().amax(dim=-1) / 6 / whole).to(torch.float8_e4m3fn)
    factors = scales.float()[..., None] * whole
    codes = (groups.abs() / factors).unsqueeze(-1).sub(VALUES).abs().argmin(dim=-1)
    numbers = (VALUES[codes] * factors * groups.sign()).flatten(1)
    codes = (codes + 8 * (groups < 0)).flatten(1).to(torch.uint8)
    module = name.removesuffix(".weight")
    parts = {
        name: codes[:, 0::2] | codes[:, 1::2] << 4,
        f"{module}.weight_scale": scales,
        f"{module}.weight_scale_2": whole,
        f"{module}.input_scale": torch.ones(()),
    }
    return parts, numbers


def fp8(name: str, matrix: torch.Tensor, shape: tuple[int, ...]) -> Packed:
    """Scales per matrix (), row [out], or block [out / 128, 1, in / 128, 1]."""
    dims = {0: (0, 1, 2, 3), 1: (1, 2, 3), 4: (1, 3)}[len(shape)]
    tall = 128 if len(shape) == 4 else 1
    blocks = matrix.view(-1, tall, matrix.shape[1] // 128, 128)
    scales = blocks.abs().amax(dim=dims, keepdim=True) / 448
    codes = (blocks / scales).to(torch.float8_e4m3fn)
    module = name.removesuffix(".weight")
    parts = {name: codes.view(matrix.shape), f"{module}.weight_scale": scales.reshape(shape)}
    return parts, (codes.float() * scales).view(matrix.shape)


@pytest.mark.parametrize(("shape", "kind"), [((), "fp8"), ((128,), "fp8"), ((1, 1, 2, 1), "fp8_blocks")])
def test_scales_of_fp8_are_told_apart_by_their_shape(shape: tuple[int, ...], kind: str) -> None:
    parts, numbers = fp8("a.weight", MATRIX, shape)
    found = numbers_of(ModelOpt(PACKING), parts)["a.weight"]
    assert isinstance(found, PackedTensor) and found.weights.kind == kind
    torch.testing.assert_close(found.dense(), numbers)


def test_nvfp4_is_read_and_the_scale_of_its_inputs_is_multiplied_in() -> None:
    parts, numbers = nvfp4("a.weight", MATRIX)
    torch.testing.assert_close(numbers_of(ModelOpt(PACKING), parts)["a.weight"], numbers)
    parts["a.pre_quant_scale"] = torch.rand(256)
    found = numbers_of(ModelOpt(PACKING), parts)["a.weight"]
    torch.testing.assert_close(found, numbers * parts["a.pre_quant_scale"])


@pytest.mark.parametrize(
    "change",
    [
        {"quant_algo": "W4A8_AWQ"},
        {"quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "W4A8_AWQ"}}},
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="^its weights are packed by Model Optimizer's 'W4A8_AWQ'; of its formats .* can be"
    ):
        format_of(PACKING | change)


def pack(name: str, matrix: torch.Tensor) -> Packed:
    return nvfp4(name, matrix) if ".mlp." in name else fp8(name, matrix, (len(matrix),))


def test_answers_are_those_of_the_twin(tmp_path: Path) -> None:
    bench = check_twins(*save_twins(tmp_path, "llama", pack, PACKING))
    assert type(bench.engine.runner).__name__ == "NativeDecoderRunner"
