"""Weights, workspace and KV cache of a model on a machine, with each quantization, as the engine would choose them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from common.process.machine_memory import available_bytes, total_bytes
from worker.device import choose_device
from worker.fit.checkpoint import Checkpoint
from worker.fit.experts import expert_matrices, num_routed
from worker.fit.survey import ModelShape, shape_of
from worker.fit.weights import weight_bytes
from worker.kernels.linear import can_pack
from worker.kernels.packed.encodings import WEIGHTS, cpu_int4_weights
from worker.kernels.quantized import QUANTIZATIONS, Quantization
from worker.models.dtypes import count_parameters, dtype_for
from worker.models.experts.stored import LEAST_NUMBERS
from worker.models.loader import EngineConfig
from worker.models.vision import is_vision_model
from worker.runners.latent.parts import any_parts_of
from worker.runners.limits import (
    CPU_MEMORY_SHARE,
    MIN_CPU_BYTES,
    Limits,
    block_size_for,
    choose_limits,
    kv_dtype,
    workspace_bytes,
)

SHORT = 4096  # tokens of a usual sequence
CONTEXT_BYTES = 2**29  # that CUDA takes of a GPU for each process


@dataclass(frozen=True)
class Machine:
    """The memory that the model may have. On a GPU `used` is what other processes have; on a CPU all else."""

    device: torch.device
    name: str
    total: int
    used: int
    is_here: bool = True


@dataclass(frozen=True)
class Plan:
    """One way to run the model. All sizes in bytes."""

    quantize: str  # a value of OMNI_QUANTIZE
    dtype: str
    weights: int
    workspace: int
    kv_per_token: int
    kv_room: int
    context: int  # the longest sequence, tokens
    num_tokens: int  # that the KV cache holds
    streams: int  # of the longest sequences at once
    short_streams: int  # of sequences of SHORT tokens at most
    missing: int  # that there is too little; 0: it fits
    why: str


def this_machine(device_name: str, assumed: int | None) -> Machine:
    """`assumed`: the memory of a GPU that this machine need not have."""
    if assumed is not None:
        return Machine(
            torch.device("cuda"), f"a GPU with {assumed / 2**30:.0f} GiB", assumed, CONTEXT_BYTES, is_here=False
        )
    device = choose_device(device_name)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Machine(device, torch.cuda.get_device_name(device), total, total - free)
    total = total_bytes()
    return Machine(device, "CPU", total, total - available_bytes())


def plans(checkpoint: Checkpoint, machine: Machine, config: EngineConfig) -> Iterator[Plan]:
    """As the weights are, and by each quantization that the model may have there."""
    shape = shape_of(checkpoint.model)
    kinds: list[Quantization | None] = [None]
    if checkpoint.packing is None and shape.has_products:
        kinds += [kind() for kind in QUANTIZATIONS if machine.device.type != "cpu" or kind.name != "fp8"]
    for quantization in kinds:
        yield plan(checkpoint, shape, machine, replace(config, quantization=quantization))


def plan(checkpoint: Checkpoint, shape: ModelShape, machine: Machine, config: EngineConfig) -> Plan:
    num_parameters = count_parameters(checkpoint.model)
    is_packed = checkpoint.packing is not None
    dtype = dtype_for(config, machine.device, checkpoint.saved, num_parameters, is_packed=is_packed)
    plain = weight_bytes(checkpoint, dtype)
    weights = plain + copied_bytes(checkpoint, dtype, machine.device)
    if config.quantization is not None:
        weights = quantized_bytes(checkpoint.model, dtype, config.quantization, machine.device)
    loaded = stand_in(checkpoint, machine, dtype, config)
    workspace = workspace_bytes(loaded, config, num_parameters) if machine.device.type != "cpu" else 0
    room = config.kv_memory_bytes or kv_room(machine, config, weights, workspace, num_parameters * dtype.itemsize)
    per_token = sum(layer.token_bytes(kv_dtype(loaded, config)) for layer in shape.layers)
    block = per_token * block_size_for(machine.device)
    num_kept = 1 if machine.device.type == "cuda" else 0
    needed = max((1 + num_kept) * block, (config.max_model_len or 0) * per_token + num_kept * block)
    at_load = 0
    if config.quantization is not None:
        unread = unread_bytes(checkpoint.model, dtype, machine, config)
        at_load = plain - unread - (machine.total - machine.used)
    missing, why = max(0, needed - room), "keys and values"
    if at_load > missing:
        missing, why = at_load, "the unpacked weights, which are loaded before they are packed"
    elif room <= 0:
        why = "the weights"
    limits = None
    if not missing:
        limits = choose_limits(loaded, replace(config, kv_memory_bytes=room), shape.layers, num_parameters)
    return Plan(
        config.quantization.name if config.quantization else "",
        str(dtype).removeprefix("torch."),
        weights,
        workspace,
        per_token,
        max(0, room),
        *streams(limits, num_kept),
        missing=missing,
        why=why if missing else "",
    )


def streams(limits: Limits | None, num_kept: int) -> tuple[int, int, int, int]:
    """The longest sequence, the tokens of the KV cache, and how many sequences of two lengths it holds."""
    if limits is None:
        return 0, 0, 0, 0
    num_tokens = (limits.num_blocks - num_kept) * limits.block_size
    longest, most = limits.max_model_len, limits.max_num_seqs
    return longest, num_tokens, min(most, num_tokens // longest), min(most, num_tokens // min(SHORT, longest))


def kv_room(machine: Machine, config: EngineConfig, weights: int, workspace: int, plain: int) -> int:
    """Bytes for keys and values, as worker/runners/limits.py has them; negative if the weights do not fit."""
    if machine.device.type != "cpu":
        return int(machine.total * config.gpu_memory_utilization) - machine.used - weights - workspace
    left = machine.total - machine.used - weights
    return min(left, int(left * CPU_MEMORY_SHARE), max(MIN_CPU_BYTES, plain))


def stand_in(checkpoint: Checkpoint, machine: Machine, dtype: torch.dtype, config: EngineConfig) -> Any:
    """What the engine's arithmetic asks of a LoadedModel."""
    model = checkpoint.model
    longest = checkpoint.max_model_len
    return SimpleNamespace(
        model=model,
        device=machine.device,
        dtype=dtype,
        arena=None,
        images=object() if is_vision_model(model.config) else None,
        card=SimpleNamespace(max_model_len=min(config.max_model_len or longest, longest)),
    )


def copied_bytes(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> int:
    """Of a head that shares its weights with the embedding: on a CPU it is packed for products, as a copy."""
    head = checkpoint.model.get_output_embeddings()
    is_shared = head is not None and head.weight is checkpoint.model.get_input_embeddings().weight
    is_copied = is_shared and checkpoint.packing is None and device.type == "cpu" and can_pack(dtype)
    return head.weight.numel() * dtype.itemsize if is_copied else 0


def quantized_bytes(model: Any, dtype: torch.dtype, quantization: Quantization, device: torch.device) -> int:
    """Of all weights, when those of the decoder's products are packed."""
    total = count_parameters(model) * dtype.itemsize
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    products = [
        ([owner.get_submodule(name) for name in names], quantization)
        for layer in model.model.layers
        for _, owner, names in any_parts_of(layer)
    ]
    for modules, kind in [*products, ([head], quantization.for_head())]:
        num_out, num_in = sum(module.out_features for module in modules), modules[0].in_features
        if kind.fits(num_out, num_in):
            is_shared = modules[0].weight is embedding.weight
            total += packed_size(kind, num_out, num_in, dtype, device)
            total -= 0 if is_shared else num_out * num_in * dtype.itemsize
    for each in expert_matrices(model):
        if quantization.fits(each.num_out, each.num_in):
            one = packed_size(quantization, each.num_out, each.num_in, dtype, device)
            total += each.num_experts * one - each.num_numbers * dtype.itemsize
    return total


def unread_bytes(model: Any, dtype: torch.dtype, machine: Machine, config: EngineConfig) -> int:
    """Of routed experts that are packed into files one by one, and never in memory as they are in the checkpoint."""
    numbers = num_routed(model)
    is_stored = machine.device.type == "cpu" and config.packed_folder is not None and numbers >= LEAST_NUMBERS
    return numbers * dtype.itemsize if is_stored else 0


def packed_size(quantization: Quantization, num_out: int, num_in: int, dtype: torch.dtype, device: torch.device) -> int:
    quantize = cpu_int4_weights if (device.type, quantization.name) == ("cpu", "int4") else WEIGHTS[quantization.name]
    return quantize(torch.empty(num_out, num_in, dtype=dtype, device="meta")).num_bytes
