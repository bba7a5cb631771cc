"""The memory that a model will take, from its files' headers: by the arithmetic of `omni fit`."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from common.model.folder import size_of_weights
from worker.embedding.cross_encoder import is_cross_encoder
from worker.fit.checkpoint import Checkpoint, read
from worker.fit.plan import Machine, plan, this_machine
from worker.fit.sparse import EXPERTS, part_bytes
from worker.fit.survey import shape_of
from worker.models.dtypes import count_parameters, dtype_for
from worker.models.experts.place import BESIDE_BYTES, experts_stay
from worker.models.formats.reader import dtype_of, on_meta
from worker.models.loader import EngineConfig
from worker.models.loading_reports import logs_at_debug
from worker.models.read.config import read_config
from worker.unloaded.cards import task_of


@dataclass(frozen=True)
class ModelSize:
    """Bytes on the device."""

    weights: int
    kv_per_token: int = 0
    workspace: int = 0  # of the largest step, on a GPU


@logs_at_debug()
def size_of(model_path: str, config: EngineConfig, machine: Machine | None = None) -> ModelSize:
    """`config`: that of this model's engine; `machine`: another one than this. Nothing is read but headers.

    Raises OSError or ValueError.
    """
    machine = machine or this_machine(config.device, None)
    if task_of(model_path) != "generate":
        return ModelSize(encoder_bytes(model_path, machine.device))
    checkpoint = read(model_path)
    shape = shape_of(checkpoint.model)
    found = plan(checkpoint, shape, machine, replace(config, kv_memory_bytes=None))
    room = int(machine.total * config.gpu_memory_utilization) - BESIDE_BYTES
    stay = experts_stay(checkpoint.model.config, config, found.weights, room)
    if machine.device.type == "cuda" and stay:
        found = replace(found, weights=beside_experts(checkpoint, config, machine.device))
    draft = size_of_weights(config.draft_model) if config.draft_model else 0
    return ModelSize(found.weights + draft, found.kv_per_token, found.workspace)


def beside_experts(checkpoint: Checkpoint, config: EngineConfig, device: torch.device) -> int:
    """Bytes of all weights but those of routed experts."""
    dtype = dtype_for(config, device, checkpoint.saved, count_parameters(checkpoint.model), is_packed=True)
    parts = part_bytes(checkpoint, dtype, config.quantization.name if config.quantization else "")
    return sum(size for part, size in parts.items() if part != EXPERTS)


def encoder_bytes(model_path: str, device: torch.device) -> int:
    """In float32 on a CPU, as saved on a GPU."""
    config: Any = read_config(model_path)
    model = on_meta(AutoModelForSequenceClassification if is_cross_encoder(config) else AutoModel, config)
    dtype = torch.float32 if device.type == "cpu" else dtype_of(config)
    return count_parameters(model) * dtype.itemsize
