"""A sparse model whose routed experts stand in host memory: what of it lies where, and how fast it would be."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from common.process.machine_memory import total_bytes
from worker.fit.bandwidth import Rates, rates
from worker.fit.checkpoint import EXPERT_DIMENSIONS, Checkpoint, bits_of, packs_experts_only
from worker.fit.plan import Machine, stand_in
from worker.fit.survey import ModelShape, shape_of
from worker.kernels.packed.encodings import WEIGHTS, cpu_int4_weights
from worker.models.config_fields import largest
from worker.models.dtypes import count_parameters, dtype_for
from worker.models.experts.packing import RESERVED_BYTES
from worker.models.experts.stored import room_on_disk
from worker.models.loader import EngineConfig
from worker.runners.limits import kv_dtype, workspace_bytes

CONTEXT = 32_768  # tokens for whose keys and values there is to be room, unless OMNI_MAX_MODEL_LEN says how many
STREAMS = (1, 8)  # sequences for which tokens a second are told
FORMS = ("", "int8", "int4")  # values of OMNI_QUANTIZE that experts in host memory may have
EXPERTS, HEAD, OTHER = "routed experts", "embeddings and head", "other"
LAYER_PARTS = ("indexer", "attention", "shared experts")  # of each layer, or nearly
# parts of names of matrices that runners hold in float32, and, whatever the checkpoint's form, in the model's dtype
IN_FLOAT32, IN_DTYPE = (".indexer.weights_proj.", ".mlp.gate."), (".kv_b_proj.",)
FLOAT32_ROUTERS = "e_score_correction_bias"  # a buffer that models have whose routers compute in float32
CHOSEN = ("num_experts_per_tok", "moe_top_k")  # of a configuration
# a part of a parameter's name -> the part of the model, the first that fits
PARTS: Mapping[str, str] = MappingProxyType(
    {
        ".indexer.": "indexer",
        ".self_attn.": "attention",
        ".shared_expert": "shared experts",
        "embed_tokens.": HEAD,
        "lm_head.": HEAD,
        ".mlp.": "dense layers and routers",
    }
)


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of the device, of host memory and of the disk."""

    device: int  # 0 without a GPU
    host: int
    disk: int

    def lacking(self, there: "Needs") -> "Needs":
        return Needs(*(max(0, getattr(self, name) - getattr(there, name)) for name in ("device", "host", "disk")))


@dataclass(frozen=True, slots=True)
class SparsePlan:
    """One form of the experts."""

    quantize: str  # a value of OMNI_QUANTIZE
    experts: int  # bytes of all of them
    parts: Mapping[str, int]  # bytes of all else, by part
    context: int  # tokens
    keys_and_values: int  # bytes of so many tokens
    workspace: int
    needs: Needs
    missing: Needs
    tokens_per_s: tuple[float, ...]  # of all streams together, for each of STREAMS


@dataclass(frozen=True, slots=True)
class SparseModel:
    """A model with routed experts, and the machine that is to run it."""

    checkpoint: Checkpoint
    shape: ModelShape
    machine: Machine
    config: EngineConfig  # without a quantization
    there: Needs  # that the machine has

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, shape: ModelShape, machine: Machine, config: EngineConfig, there: Needs
    ) -> "SparseModel | None":
        """None for a model without routed experts."""
        is_sparse = any(parameter.dim() >= EXPERT_DIMENSIONS for parameter in checkpoint.model.parameters())
        return cls(checkpoint, shape, machine, replace(config, quantization=None), there) if is_sparse else None

    def plan(self, quantize: str, rates: Rates) -> SparsePlan:
        """With experts in this form."""
        checkpoint, config, is_gpu = self.checkpoint, self.config, self.machine.device.type != "cpu"
        model = checkpoint.model
        dtype = dtype_for(config, self.machine.device, checkpoint.saved, count_parameters(model), is_packed=True)
        parts = part_bytes(checkpoint, dtype, quantize)
        experts, num_experts = parts.pop(EXPERTS), count_parameters(model) - num_dense(model)
        loaded, rest = stand_in(checkpoint, self.machine, dtype, config), sum(parts.values())
        workspace = workspace_bytes(loaded, config, num_experts) if is_gpu else 0
        context = min(config.max_model_len or CONTEXT, checkpoint.max_model_len)
        keys = context * sum(layer.token_bytes(kv_dtype(loaded, config)) for layer in self.shape.layers)
        beside = rest + keys + workspace
        released = 0 if checkpoint.has_weights else released_bytes(checkpoint)
        needs = Needs(beside if is_gpu else 0, experts + RESERVED_BYTES + (0 if is_gpu else beside), experts + released)
        read = rest - unread_bytes(model, dtype)
        steps = (rates.seconds(read, experts * share_of(model, num), is_gpu=is_gpu) for num in STREAMS)
        return SparsePlan(
            quantize,
            experts,
            parts,
            context,
            keys,
            workspace,
            needs,
            needs.lacking(self.there),
            tuple(num / seconds for num, seconds in zip(STREAMS, steps, strict=True)),
        )


def sparse_report(
    checkpoint: Checkpoint, machine: Machine, config: EngineConfig, ram: int | None
) -> dict[str, object] | None:
    """A plan for each form of the experts, as JSON; None for a model without routed experts."""
    model = SparseModel.of(checkpoint, shape_of(checkpoint.model), machine, config, what_is_there(machine, config, ram))
    if model is None:
        return None
    found = rates(machine.device if machine.is_here else None)
    return {"plans": [asdict(model.plan(quantize, found)) for quantize in FORMS], "rates": asdict(found)}


def what_is_there(machine: Machine, config: EngineConfig, ram: int | None) -> Needs:
    """Of the machine: memory of the device that a model may have, memory, and the disk of the packed experts."""
    device = int(machine.total * config.gpu_memory_utilization) - machine.used
    return Needs(device, ram or total_bytes(), room_on_disk(config.packed_folder or Path.cwd()))


def part_bytes(checkpoint: Checkpoint, dtype: torch.dtype, quantize: str) -> dict[str, int]:
    """Of each part of the model, in memory, as the runners hold it."""
    sizes = defaultdict[str, float](float)
    has_float32 = any(name.endswith(FLOAT32_ROUTERS) for name, _ in checkpoint.model.named_buffers())
    in_float32 = IN_FLOAT32 if has_float32 else ()
    for name, parameter, width in stored_widths(checkpoint, dtype):
        if parameter.dim() >= EXPERT_DIMENSIONS:
            bits = None if checkpoint.packing is None else bits_of(checkpoint.packing)
            sizes[EXPERTS] += parameter.numel() * expert_width(parameter, bits, dtype, quantize)
        else:
            held = torch.float32.itemsize if any(word in name for word in in_float32) else width
            is_absorbed = any(word in name for word in IN_DTYPE)
            sizes[part_of(name)] += parameter.numel() * (dtype.itemsize if is_absorbed else held)
    return {part: int(size) for part, size in sizes.items()}


def part_of(name: str) -> str:
    """The part of the model that a parameter of this name belongs to."""
    return next((part for word, part in PARTS.items() if word in f".{name}"), OTHER)


def stored_widths(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor, float]]:
    """Name and parameter, and the bytes of one of its numbers in files of the checkpoint's form."""
    model = checkpoint.model
    head, bits = model.get_output_embeddings(), None if checkpoint.packing is None else bits_of(checkpoint.packing)
    linears = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear) and part is not head}
    has_packed_linears = checkpoint.packing is not None and not packs_experts_only(checkpoint.packing)
    for name, parameter in model.named_parameters():
        is_expert = parameter.dim() >= EXPERT_DIMENSIONS
        is_packed = is_expert or id(parameter) in linears and has_packed_linears
        yield name, parameter, bits / 8 if is_packed and bits is not None else dtype.itemsize


def expert_width(parameter: torch.Tensor, bits: float | None, dtype: torch.dtype, quantize: str) -> float:
    """Bytes of a number of an expert's matrix, as the CPU's kernels hold it."""
    if not quantize:
        return dtype.itemsize if bits is None else bits / 8
    one = torch.empty(parameter.shape[1:], dtype=dtype, device="meta")
    packed = cpu_int4_weights(one) if quantize == "int4" else WEIGHTS[quantize](one)
    return packed.num_bytes / one.numel()


def num_dense(model: Any) -> int:
    """Parameters that are no routed experts'."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() < EXPERT_DIMENSIONS)


def unread_bytes(model: Any, dtype: torch.dtype) -> int:
    """Of the embeddings, from which a step takes some rows, unless they are the head too."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_shared = head is not None and head.weight is embedding.weight
    return 0 if is_shared else embedding.weight.numel() * dtype.itemsize


def released_bytes(checkpoint: Checkpoint) -> int:
    """Of the files, with a layer that predicts a token more where the release has one."""
    text, parts = checkpoint.model.config.get_text_config(), defaultdict[str, float](float)
    for name, parameter, width in stored_widths(checkpoint, checkpoint.saved):
        part = EXPERTS if parameter.dim() >= EXPERT_DIMENSIONS else part_of(name)
        parts[part] += parameter.numel() * width
    num_layers, num_sparse = text.num_hidden_layers, len(expert_parameters(checkpoint.model)) // 2
    per_layer = sum(parts[name] for name in LAYER_PARTS) / num_layers + parts[EXPERTS] / num_sparse
    more = per_layer + parts[HEAD] + 2 * text.hidden_size**2 * checkpoint.saved.itemsize
    return int(sum(parts.values()) + (getattr(text, "num_nextn_predict_layers", 0) or 0) * more)


def expert_parameters(model: Any) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.dim() >= EXPERT_DIMENSIONS]


def share_of(model: Any, num_tokens: int) -> float:
    """Of all experts' bytes, those that a step of so many tokens reads, if each token chooses at random."""
    config = model.config.get_text_config()
    chosen = next(int(found) for name in CHOSEN if (found := largest(config, name)) is not None)
    return 1 - (1 - chosen / len(expert_parameters(model)[0])) ** num_tokens
