"""What decoder runners take from a model's modules, and which runner takes which model on a CPU."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.kernels.elementwise import ACTIVATIONS, gated
from worker.kernels.experts.activation import activation_name
from worker.runners.decoder import DecoderRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.parts.layers import Norm
from worker.runners.parts.mlp import check_parts, dense_mlp
from worker.runners.probe import Unsupported

WIDE = {"hidden_size": 64, "head_dim": 32}  # widths that the C kernels take
HALF_ROTATED = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "phi3"])
def test_families_that_the_c_kernels_lack_run_by_torch_between_the_products(
    family: str, model_folder: ModelFolder
) -> None:
    changes = WIDE | (HALF_ROTATED if family == "phi3" else {})
    bench = Bench(model_folder(family, **changes))
    assert type(bench.engine.runner) is DecoderRunner
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_fused_projections_are_one_product_for_the_c_kernels_too(family: str, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(family, **WIDE))
    assert type(bench.engine.runner) is NativeDecoderRunner
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "first"), [(LlamaRMSNorm, 0), (Gemma3RMSNorm, 1)])
def test_a_norms_weight_is_what_it_multiplies_by(kind: Any, first: int, dtype: torch.dtype) -> None:
    module = kind(8).to(dtype)
    module.weight.data = 0.01 * torch.randn(8).to(dtype)
    norm = Norm(module)
    assert norm.counts_from_one == bool(first)
    assert torch.equal(norm.weight.float(), first + module.weight.detach().float())


def test_a_norm_that_subtracts_the_mean_is_refused() -> None:
    with pytest.raises(Unsupported, match="LayerNorm is another norm"):
        Norm(nn.LayerNorm(8))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_known_by_what_it_computes(name: str) -> None:
    assert activation_name(ACTIVATIONS[name]) == name
    gate, up = torch.randn(2, 3, 4)
    assert torch.allclose(gated(torch.cat([gate, up], dim=1), name), ACTIVATIONS[name](gate) * up)


def test_another_activation_is_refused() -> None:
    mlp = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=4, hidden_act="relu"))
    with pytest.raises(Unsupported, match="ReLU"):
        dense_mlp(mlp, None)


def test_dropout_is_no_part_and_any_other_is() -> None:
    check_parts(nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Dropout(0.1)}), {"a"})
    with pytest.raises(Unsupported, match="parts"):
        check_parts(nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}), {"a"})
