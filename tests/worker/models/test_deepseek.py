"""Checkpoints of DeepSeek's form as released are read completely, to the numbers that their fp8 stands for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.deepseek import V3, V32, numbers, save_deepseek, save_unpacked
from tests.deepseek_kin import GLM5
from worker.kernels.packed.tensor import PackedTensor
from worker.models.loader import EngineConfig, load


@pytest.mark.parametrize("version", [V32, V3, GLM5], ids=["v3.2", "v3", "glm5"])
def test_its_weights_are_those_that_transformers_reads_unpacked(version: dict[str, Any], tmp_path: Path) -> None:
    packed = save_deepseek(tmp_path / "packed", version=version)
    ours = load(str(packed), ("deepseek",), EngineConfig(device="cpu", dtype="float32"), lambda *_: None).model
    twin, info = AutoModelForCausalLM.from_pretrained(
        save_unpacked(packed, tmp_path / "unpacked"), output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    found, expected = dict(ours.named_parameters()), dict(twin.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        dense = parameter.dense() if isinstance(parameter, PackedTensor) else parameter
        torch.testing.assert_close(dense.float(), expected[name].float(), msg=name)
    assert any(isinstance(parameter, PackedTensor) for parameter in found.values())


def test_the_layer_after_the_last_one_shares_embeddings_and_head(tmp_path: Path) -> None:
    tensors = numbers(save_deepseek(tmp_path))
    assert torch.equal(tensors["model.layers.3.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    assert torch.equal(tensors["model.layers.3.shared_head.head.weight"], tensors["lm_head.weight"])
    assert "model.layers.3.self_attn.indexer.wk.weight" in tensors
