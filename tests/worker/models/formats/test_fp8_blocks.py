"""fp8 with scales of blocks, as DeepSeek-V3 and Qwen3 are released."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.damaged import loaded
from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import Packed, check_twins, save_twins
from worker.kernels.packed.encodings import fp8_block_weights
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.fp8_blocks import Fp8Blocks
from worker.models.formats.known import format_of
from worker.runners.native_decoder import NativeDecoderRunner

PACKING = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


CODES = torch.randn(200, 300, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("key", "scales", "block", "kind"),
    [
        ("a.weight_scale_inv", torch.rand(2, 3) + 0.5, [128, 128], "fp8_blocks"),
        ("a.weight_scale_inv", (torch.rand(2, 3) + 0.5).bfloat16(), [128, 128], "fp8_blocks"),
        ("a.weight_scale_inv", torch.rand(1, 2) + 0.5, [256, 256], "fp8_blocks"),
        ("a.weight_scale_inv", torch.rand(4, 5) + 0.5, [64, 64], "dense"),
        ("a.weight_scale_inv", torch.randint(120, 130, (2, 3), dtype=torch.uint8), [128, 128], "fp8_blocks"),
        ("a.weight_scale_inv", (torch.rand(2, 3) + 0.5).to(torch.float8_e8m0fnu), [128, 128], "fp8_blocks"),
        ("a.weight_scale_inv", torch.tensor(0.7), None, "fp8"),
        ("a.weight_scale", torch.tensor([0.7]), None, "fp8"),
        ("a.weight_scale", torch.rand(200, 1) + 0.5, None, "fp8"),
    ],
)
def test_scales_of_a_matrix_of_rows_and_of_blocks_are_read(
    key: str, scales: torch.Tensor, block: list[int] | None, kind: str
) -> None:
    factors = torch.exp2(scales.float() - 127) if scales.dtype == torch.uint8 else scales.float()
    if factors.numel() > 1 and kind != "fp8":
        tall, wide = block or []
        factors = factors.repeat_interleave(tall, 0)[:200].repeat_interleave(wide, 1)[:, :300]
    parts = {"a.weight": CODES, key: scales, "a.input_scale": torch.ones(1)}
    found = numbers_of(Fp8Blocks(PACKING | {"weight_block_size": block}), parts)["a.weight"]
    assert (found.weights.kind if isinstance(found, PackedTensor) else "dense") == kind
    torch.testing.assert_close(found.dense() if isinstance(found, PackedTensor) else found, CODES.float() * factors)


def test_fused_experts_are_packed_and_their_biases_and_routers_are_not() -> None:
    codes = torch.randn(2, 128, 256).to(torch.float8_e4m3fn)
    parts = {
        "layers.0.mlp.experts.gate_up_proj": codes,
        "layers.0.mlp.experts.gate_up_proj_scale_inv": torch.ones(2, 1, 2),
        "layers.0.mlp.experts.gate_up_proj_bias": torch.ones(2, 128),
        "layers.0.mlp.gate.weight": torch.ones(2, 256),
    }
    found = numbers_of(Fp8Blocks(PACKING), parts)
    experts = found.pop("layers.0.mlp.experts.gate_up_proj")
    assert isinstance(experts, PackedTensor) and experts.shape == (2, 128, 256)
    assert {name: type(tensor) for name, tensor in found.items()} == {
        "layers.0.mlp.experts.gate_up_proj_bias": torch.Tensor,
        "layers.0.mlp.gate.weight": torch.Tensor,
    }


def test_scales_of_another_shape_are_refused() -> None:
    parts = {"a.weight": CODES, "a.weight_scale_inv": torch.ones(3, 3)}
    with pytest.raises(
        ValueError, match=r"its a.weight is not packed as fp8 is: its scales of shape \[3, 3\] do not fit"
    ):
        numbers_of(Fp8Blocks(PACKING), parts)


@pytest.mark.parametrize("change", [{"expert_dtype": "fp4"}])
def test_what_cannot_be_read_is_refused_in_a_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^its weights have experts in fp4; in fp8 they can be read.$"):
        format_of(PACKING | change)


def pack(name: str, matrix: torch.Tensor) -> Packed | None:
    if not name.endswith("proj.weight"):
        return None
    weights = fp8_block_weights(matrix)
    assert weights.scales is not None
    parts = {name: weights.codes.view(torch.float8_e4m3fn), f"{name}_scale_inv": weights.scales}
    return parts, weights.dense()


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_answers_are_those_of_the_twin(tmp_path: Path, family: str) -> None:
    runner = check_twins(*save_twins(tmp_path, family, pack, PACKING)).engine.runner
    assert isinstance(runner, NativeDecoderRunner) or family != "llama"


def test_no_layer_is_one_of_transformers_that_fetch_kernels_from_a_hub(tmp_path: Path) -> None:
    folder, _ = save_twins(tmp_path, "llama", pack, PACKING)
    model = loaded(folder).model
    assert getattr(model.config, "quantization_config", None) is None
    assert {
        type(module) for module in model.modules() if "_proj" in type(module).__name__ or hasattr(module, "bias")
    } == {torch.nn.Linear}
