"""LoRA adapters in PEFT's folder format with random weights, and models with the same change merged into them."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

Layers = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # by name: A [rank, in], B [out, rank]


def random_layers(
    model: Path, rank: int, wanted: Callable[[str], bool] = lambda name: True, *, seed: int = 0, size: float = 0.1
) -> Layers:
    """Matrices for the linear layers of a model that are wanted; never for its head."""
    generator = torch.Generator().manual_seed(seed)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    head = loaded.get_output_embeddings()
    return {
        name: (
            torch.randn(rank, module.in_features, generator=generator) * size,
            torch.randn(module.out_features, rank, generator=generator) * size,
        )
        for name, module in loaded.named_modules()
        if isinstance(module, nn.Linear) and module is not head and wanted(name)
    }


def save_adapter(folder: Path, layers: Layers, rank: int, alpha: float = 16, **changes: Any) -> Path:
    """As PEFT's save_pretrained() writes it; `changes` of adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "lora_bias": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "inference_mode": True,
    } | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for name, (down, up) in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def new_adapter(model: Path, folder: Path, rank: int = 4, *, seed: int = 0, alpha: float = 16, **changes: Any) -> Path:
    """An adapter of all linear layers."""
    return save_adapter(folder, random_layers(model, rank, seed=seed), rank, alpha, **changes)


def merge(model: Path, adapter: Path, into: Path, scale: float | None = None) -> Path:
    """The model with W + B A * scale as its weights; the scale is the config's alpha / r unless it is given."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for name, (down, up) in layers_in(adapter).items():
            usual = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
            loaded.get_submodule(name).weight += up @ down * (usual if scale is None else scale)
    loaded.save_pretrained(into)
    AutoTokenizer.from_pretrained(model).save_pretrained(into)
    return into


def layers_in(adapter: Path) -> Layers:
    from safetensors.torch import load_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    names = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in tensors}
    ends = ".lora_A.weight", ".lora_B.weight"
    return {name: tuple(tensors[f"base_model.model.{name}{end}"] for end in ends) for name in names}  # type: ignore[misc]
