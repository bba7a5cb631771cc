"""MXFP4 as gpt-oss is released."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.worker.conftest import SMALL, Bench
from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import Packed, check_twins, save_twins
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights
from worker.models.formats.known import format_of
from worker.models.formats.mxfp4 import Mxfp4
from worker.models.formats.reader import weight_bytes
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.parts.mlp import SparseMlp

PACKING = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.embed_tokens"]}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_local_experts": 6}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# gpt-oss-20b's config.json
GPT_OSS_20B: Mapping[str, Any] = {
    "num_hidden_layers": 24, "num_local_experts": 32, "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 201088, "num_experts_per_tok": 4,
}  # fmt: skip


def rounded(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix [..., out, in] as blocks and scales of a file, and its numbers."""
    groups = matrix.float().unflatten(-1, (-1, 32))
    exponents = groups.abs().amax(-1).div(6).clamp(min=2**-60).log2().ceil()
    scaled = groups / torch.exp2(exponents)[..., None]
    codes = (scaled.abs()[..., None] - E2M1).abs().argmin(-1)
    numbers = E2M1[codes] * scaled.sign() * torch.exp2(exponents)[..., None]
    nibbles = (codes + 8 * (scaled < 0)).to(torch.uint8)
    blocks = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return blocks, (exponents + 127).to(torch.uint8), numbers.flatten(-2)


def pack(name: str, tensor: torch.Tensor) -> Packed | None:
    if not name.endswith(("gate_up_proj", "down_proj")):
        return None
    blocks, scales, numbers = rounded(tensor.transpose(1, 2))
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}, numbers.transpose(1, 2).to(tensor.dtype).contiguous()


def test_a_file_s_blocks_are_the_numbers_that_transformers_reads() -> None:
    blocks, scales, numbers = rounded(torch.randn(3, 64, 96))
    name = "model.layers.0.mlp.experts.down_proj"
    parts = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": torch.ones(3, 64)}
    found = numbers_of(Mxfp4(PACKING), parts)
    experts = found[name]
    assert isinstance(experts, PackedTensor) and experts.shape == (3, 96, 64)
    assert torch.equal(experts.dense(), convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
    assert torch.equal(experts.dense(), numbers.transpose(1, 2))
    assert type(found[f"{name}_bias"]) is torch.Tensor


@pytest.mark.usefixtures("kernels")
def test_greedy_tokens_are_those_of_the_twin(tmp_path: Path) -> None:
    packed, twin = save_twins(tmp_path, "gpt_oss", pack, PACKING, **SIZES)
    bench = check_twins(packed, twin)
    runner = bench.engine.runner
    assert type(runner) is DecoderRunner
    products = [layer.mlp.experts for layer in runner.layers if isinstance(layer.mlp, SparseMlp)]
    assert [type(product) for product in products] == [CpuExperts, CpuExperts]
    assert {id(product) for product in products} <= {id(linear) for linear in runner.linears}  # told to round


class Decoded(list[int]):
    """How many matrices each call of Weights.dense() decodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stock, seen = Weights.dense, self

        def counted(weights: Weights, *rows: Any) -> torch.Tensor:
            seen.append(1 if weights.codes.dim() == 2 else len(weights.codes))
            return stock(weights, *rows)

        monkeypatch.setattr(Weights, "dense", counted)


def test_a_start_decodes_two_experts_of_a_layer_to_compare_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _ = save_twins(tmp_path, "gpt_oss", pack, PACKING, **SIZES)
    decoded = Decoded(monkeypatch)
    Bench(packed, replace(SMALL, dtype="bfloat16"))
    assert decoded == [1] * (2 * 2 * 2)  # layers, experts, matrices


def test_experts_whose_product_is_wrong_are_computed_by_their_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    packed, twin = save_twins(tmp_path, "gpt_oss", pack, PACKING, **SIZES)
    compute = CpuExperts.__call__

    def doubled(self: CpuExperts, hidden: Any, chosen: Any, weights: torch.Tensor, out: Any) -> None:
        compute(self, hidden, chosen, 2 * weights, out)

    monkeypatch.setattr(CpuExperts, "__call__", doubled)
    bench = check_twins(packed, twin)
    assert caplog.text.count("the experts of a layer deviate by 1") == 2
    assert type(bench.engine.runner) is ModelRunner


def test_scales_of_another_shape_are_refused() -> None:
    blocks, scales, _ = rounded(torch.randn(3, 64, 96))
    with pytest.raises(ValueError, match="do not fit its blocks"):
        numbers_of(Mxfp4(PACKING), {"a_blocks": blocks, "a_scales": scales[:, :1]})


def test_gpt_oss_20b_needs_less_than_16_gb_for_its_weights() -> None:
    assert isinstance(format_of(PACKING), Mxfp4)
    with torch.device("meta"):
        model = GptOssForCausalLM(GptOssConfig(**GPT_OSS_20B)).bfloat16()
        for layer in model.model.layers:
            for name in ("gate_up_proj", "down_proj"):
                experts, num_in, num_out = getattr(layer.mlp.experts, name).shape
                blocks = torch.empty(experts, num_out, num_in // 32, 16, dtype=torch.uint8)
                scales = torch.empty(experts, num_out, num_in // 32, dtype=torch.uint8)
                tensor = Mxfp4(PACKING).tensor({"blocks": blocks, "scales": scales}, torch.bfloat16)
                setattr(layer.mlp.experts, name, torch.nn.Parameter(tensor, requires_grad=False))
    sizes = weight_bytes(model)
    assert sizes["mxfp4"] == 24 * 32 * (5760 + 2880) * 2880 * 17 // 32
    assert sum(sizes.values()) < 14e9
