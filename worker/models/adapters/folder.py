"""Reads an adapter's folder for a model: the low-rank matrices of each of its linear layers."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from worker.kernels.adapters.low_rank import LowRank
from worker.models.adapters.peft_config import CONFIG_FILE, MAX_RANK, AdapterFault, PeftConfig, read_config

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
NOT_LAYERS = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out"})  # parts of names
READ_BYTES = 1 << 24

Shape = tuple[int, int]  # outputs, inputs


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in memory."""

    revision: str  # of its files; the same content has the same one
    rank: int  # the largest of its layers
    layers: Mapping[str, LowRank]  # by the name of the linear layer


def linear_shapes(model: Any, part: Any) -> dict[str, Shape]:
    """The linear layers of a model's part that adapters may change, by their names in the model.

    Each of them computes all tokens of a pass; experts do not. Call it while the model is whole.
    """
    head, inner = model.get_output_embeddings(), set(part.modules())
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module in inner and module is not head and ".experts." not in name
    }


def read_adapter(path: str, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> Adapter:
    """Raises AdapterFault for a folder that is no LoRA adapter of this model."""
    folder = Path(path)
    if not folder.is_dir():
        raise AdapterFault("is not a folder on the worker's machine")
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        other = " (adapter_model.bin is not read: save it as safetensors)" if any(folder.glob("*.bin")) else ""
        raise AdapterFault(f"has no {WEIGHTS_FILE}{other}")
    try:
        with safe_open(weights, framework="pt") as file:
            layers = layers_of(file, config, shapes, dtype, device)
    except (OSError, SafetensorError) as error:
        raise AdapterFault(f"has an {WEIGHTS_FILE} that cannot be read ({error})") from error
    if not layers:
        raise AdapterFault("changes no linear layer of this model")
    if absent := [name for name in shapes if name not in layers and config.should_hold(name)]:
        logger.warning(
            "the adapter in %s has no matrices for %d of the %d linear layers that its target_modules name, the first "
            "%s: they compute as the base does", path, len(absent), len(absent) + len(layers), absent[0],
        )  # fmt: skip
    return Adapter(revision_of(folder), max(layer.rank for layer in layers.values()), layers)


def layers_of(
    file: Any, config: PeftConfig, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device
) -> dict[str, LowRank]:
    """The layers in an open file. Those that the config's targets leave out are left out, as PEFT does."""
    keys = set(file.keys())
    names = sorted({layer_name(key) for key in keys})
    layers = {}
    for name in names:
        if not config.has_target(name):
            logger.warning("the adapter's weights of %s are not used: its target_modules leave them out", name)
            continue
        shape = shapes.get(name)
        if shape is None:
            raise AdapterFault(f"changes {name}, which is no linear layer of this model")
        down_key, up_key = PREFIX + name + DOWN, PREFIX + name + UP
        if not {down_key, up_key} <= keys:
            raise AdapterFault(f"has only one of the two matrices of {name}")
        down, up = file.get_tensor(down_key), file.get_tensor(up_key)
        check_shapes(name, down, up, config.rank_of(name), shape)
        scaled = (up.float() * config.scale_of(name)).t()
        layer = LowRank(down.to(device, dtype).contiguous(), scaled.to(device, dtype).contiguous())
        check_numbers(name, layer)
        layers[name] = layer
    return layers


def layer_name(key: str) -> str:
    """The linear layer that a tensor belongs to. Raises AdapterFault for tensors of other kinds."""
    name = key.removeprefix(PREFIX)
    owner = name.removesuffix(DOWN).removesuffix(UP)
    if "lora_embedding" in key or not NOT_LAYERS.isdisjoint(name.split(".")):
        raise AdapterFault(f"changes embeddings or the head ({name}), which is not served")
    if not key.startswith(PREFIX) or owner == name:
        raise AdapterFault(f"holds {key}, which is no part of a LoRA layer")
    return owner


def check_shapes(name: str, down: torch.Tensor, up: torch.Tensor, rank: int, shape: Shape) -> None:
    num_out, num_in = shape
    found = tuple(down.shape), tuple(up.shape)
    if found != ((rank, num_in), (num_out, rank)):
        raise AdapterFault(
            f"has matrices of {found[0]} and {found[1]} for {name}; rank {rank} ({CONFIG_FILE}) and this model need "
            f"{(rank, num_in)} and {(num_out, rank)}"
        )
    if rank > MAX_RANK:
        raise AdapterFault(f"has the rank {rank} in {name}; up to {MAX_RANK} are served")
    if other := {matrix.dtype for matrix in (down, up) if not matrix.is_floating_point()}:
        raise AdapterFault(f"has matrices of {other.pop()} for {name}; floating-point numbers are served")


def check_numbers(name: str, layer: LowRank) -> None:
    """`layer`: scaled, in the model's type."""
    if not (torch.isfinite(layer.down).all() and torch.isfinite(layer.up).all()):
        kind = str(layer.down.dtype).removeprefix("torch.")
        raise AdapterFault(f"has numbers in {name} that are not finite, or too large for {kind} with the scale")


def revision_of(folder: Path) -> str:
    """A hash of the content, the same on every machine."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
    return digest.hexdigest()[:12]
