"""What `omni fit` says of routed experts in host memory, for models of many kinds and of packed checkpoints."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, FalconH1Config, Gemma3Config, MambaConfig, Qwen2_5_VLConfig, Qwen3VLMoeConfig

from tests.gguf_files import save_gguf
from tests.models import BASE, FAMILIES, HYBRID_FAMILIES, SPARSE_FAMILIES, save_model
from tests.worker.fit.test_plan import CARD
from tests.worker.models.formats.test_nvfp4 import fp8
from tests.worker.models.formats.twins import WIDE, save_twins
from worker.fit.bandwidth import Rates
from worker.fit.checkpoint import Checkpoint, parameters, read
from worker.fit.experts import share_of
from worker.fit.sparse import EXPERTS, Asked, part_bytes, sparse_report
from worker.kernels.packed.tensor import PackedTensor
from worker.models.config_fields import TOP_K_FIELDS, experts_per_token
from worker.models.loader import EngineConfig, load

HALF = torch.bfloat16
SPARSE = {"mixtral", "gpt_oss", "jamba", "qwen3_moe", "olmoe", "qwen3_next"}
CONFIGS = HYBRID_FAMILIES | SPARSE_FAMILIES | {name: FAMILIES[name] for name in ("gemma4", "gpt_oss", "mixtral")}
CONFIG = EngineConfig(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def rates_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.fit.sparse.rates", lambda *_: [Rates(1e11, 1e12)])


def shaped(folder: Path, config: Any) -> Checkpoint:
    config.save_pretrained(folder)
    return read(str(folder))


def routed(checkpoint: Checkpoint) -> int:
    return sum(
        each.numel() for name, each in checkpoint.model.named_parameters() if ".experts." in name and each.dim() > 2
    )


def reported(checkpoint: Checkpoint) -> dict[str, object] | None:
    return sparse_report(checkpoint, CARD, CONFIG, Asked(2**40))


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(num_hidden_layers=1),
        FalconH1Config(num_hidden_layers=1),
        Gemma3Config(text_config={"num_hidden_layers": 1}),
        Qwen2_5_VLConfig(text_config={"num_hidden_layers": 1}),
    ],
)
def test_convolutions_and_patches_are_no_experts(config: Any, tmp_path: Path) -> None:
    checkpoint = shaped(tmp_path, config)
    assert reported(checkpoint) is None and "experts" not in parameters(checkpoint)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_experts_are_counted_by_their_modules(family: str, tmp_path: Path) -> None:
    kind, changes = CONFIGS[family]
    checkpoint = shaped(tmp_path, kind(**BASE | changes))
    found = reported(checkpoint)
    assert (found is not None) == (family in SPARSE)
    if found is not None:
        assert part_bytes(checkpoint, HALF, "")[EXPERTS] == pytest.approx(2 * routed(checkpoint), rel=0.01)
        text = checkpoint.model.config.get_text_config()
        counts = (getattr(text, name, None) for name in ("n_routed_experts", "num_local_experts", "num_experts"))
        num_experts = next(number for number in counts if number)
        assert share_of(checkpoint.model, 1) == pytest.approx(experts_per_token(text) / num_experts)


def test_experts_of_a_model_that_sees_are_counted_without_its_patches(tmp_path: Path) -> None:
    config = Qwen3VLMoeConfig()
    text = config.text_config
    text.num_hidden_layers = 1
    checkpoint = shaped(tmp_path, config)
    found: Any = reported(checkpoint)
    assert found["plans"][0]["experts"] == 2 * 3 * text.num_experts * text.moe_intermediate_size * text.hidden_size
    assert share_of(checkpoint.model, 1) == pytest.approx(text.num_experts_per_tok / text.num_experts)


@pytest.mark.parametrize("name", TOP_K_FIELDS)
def test_each_name_of_the_experts_that_a_token_takes_is_read(name: str) -> None:
    assert experts_per_token(AutoConfig.for_model("llama", **{name: 3})) == 3
    assert experts_per_token(AutoConfig.for_model("llama")) == 1


def test_packed_experts_take_what_their_files_say(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "qwen3_moe", mlp_only_layers=[], **WIDE)
    packing = {"quant_method": "modelopt", "quant_algo": "FP8"}
    fp8_folder, _ = save_twins(
        tmp_path / "fp8", "qwen3_moe", partial(fp8, shape=()), packing, mlp_only_layers=[], moe_intermediate_size=128
    )
    for path in (save_gguf(tmp_path / "tiny.gguf", folder, "qwen3moe", "Q4_0"), fp8_folder):
        model = load(str(path), ("m",), CONFIG, lambda what, share: None).model
        weights = {name: each for name, each in model.named_parameters() if isinstance(each, PackedTensor)}
        taken = sum(each.weights.num_bytes for name, each in weights.items() if ".experts." in name)
        attention = sum(each.weights.num_bytes for name, each in weights.items() if ".self_attn." in name)
        found = part_bytes(read(str(path)), model.dtype, "")
        assert taken and found[EXPERTS] == taken and found["attention"] == pytest.approx(attention, rel=0.01)


def test_a_gguf_files_experts_take_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.fit.sparse.LEAST_NUMBERS", 1)
    folder = save_model(tmp_path / "model", "qwen3_moe", hidden_size=64, mlp_only_layers=[])
    file = save_gguf(tmp_path / "tiny.gguf", folder, "qwen3moe", "Q4_0")
    config = replace(CONFIG, packed_folder=tmp_path)
    disks = []
    for path, least in ((folder, 1), (file, 1), (folder, 10**9)):
        monkeypatch.setattr("worker.fit.sparse.LEAST_NUMBERS", least)
        found: Any = sparse_report(read(str(path)), CARD, config, Asked(2**40))
        disks.append(found["plans"][0]["needs"]["disk"])
        experts = found["plans"][0]["experts"]
    assert disks == [experts, 0, 0]
