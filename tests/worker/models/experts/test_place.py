"""Where routed experts stand on a machine with a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.worker.conftest import SMALL, ModelFolder
from worker.kernels.experts.layer import has_experts
from worker.models.experts.place import BESIDE_BYTES, home_of, move_rest

GPU, CPU, META = (torch.device(name) for name in ("cuda", "cpu", "meta"))


@pytest.mark.parametrize(
    ("family", "experts", "device", "room", "home"),
    [
        ("mixtral", "ram", GPU, 10**12, CPU),
        ("mixtral", "gpu", GPU, 0, GPU),
        ("mixtral", "auto", GPU, 10**9, GPU),
        ("mixtral", "auto", GPU, 1000, CPU),
        ("glm4_moe", "auto", GPU, 1000, CPU),
        ("llama", "ram", GPU, 1000, GPU),
        ("llama", "auto", GPU, 1000, GPU),
        ("mixtral", "ram", CPU, 1000, CPU),
    ],
)
def test_experts_stay_in_host_memory_where_they_are_told_to_or_do_not_fit(
    model_folder: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    experts: str,
    device: torch.device,
    room: int,
    home: torch.device,
) -> None:
    total = 2 * BESIDE_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (BESIDE_BYTES + room, total))
    folder = model_folder(family)
    config = replace(SMALL, experts=experts, gpu_memory_utilization=1.0)
    assert home_of(str(folder), AutoConfig.from_pretrained(folder), config, device) == home


def test_a_model_of_the_hub_is_as_large_as_its_files_in_the_cache(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("mixtral")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (BESIDE_BYTES + 1000, 2 * BESIDE_BYTES))
    monkeypatch.setattr("worker.models.experts.place.file_of", lambda _, name: folder / name)
    config = replace(SMALL, gpu_memory_utilization=1.0)
    assert home_of("someone/mixtral", AutoConfig.from_pretrained(folder), config, GPU) == CPU


def test_ranks_share_a_model_on_their_gpus(model_folder: ModelFolder) -> None:
    folder = model_folder("mixtral")
    config = replace(SMALL, num_ranks=2)
    assert home_of(str(folder), AutoConfig.from_pretrained(folder), config, GPU) == GPU


@pytest.mark.parametrize("family", ["mixtral", "glm4_moe"])
def test_all_but_the_experts_moves_and_what_is_shared_stays_shared(model_folder: ModelFolder, family: str) -> None:
    folder: Path = model_folder(family, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert move_rest(model, CPU, CPU) is model and model.device == CPU
    move_rest(model, CPU, META)
    of_experts = {id(part) for module in model.modules() if has_experts(module) for part in module.parameters()}
    assert of_experts
    for parameter in model.parameters():
        assert parameter.device == (CPU if id(parameter) in of_experts else META)
    assert all(buffer.device == META for buffer in model.buffers())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.device == META
