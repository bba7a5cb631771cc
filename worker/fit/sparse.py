"""A sparse model whose routed experts stand in host memory: what of it lies where, and how fast it would be."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.process.machine_memory import total_bytes
from worker.fit.bandwidth import SUPPOSED_HOSTS, Rates, rates
from worker.fit.checkpoint import Checkpoint
from worker.fit.experts import expert_matrices, num_routed, share_of
from worker.fit.plan import Machine, packed_size, stand_in
from worker.fit.survey import ModelShape, shape_of
from worker.fit.weights import routed_bytes, stored_widths
from worker.kernels.quantized import quantization_named
from worker.models.dtypes import count_parameters, dtype_for
from worker.models.experts.packing import RESERVED_BYTES
from worker.models.experts.stored import LEAST_NUMBERS, room_on_disk
from worker.models.loader import EngineConfig
from worker.models.vision import is_vision_model
from worker.runners.limits import kv_dtype, workspace_bytes

CONTEXT = 32_768  # tokens for whose keys and values there is to be room, unless OMNI_MAX_MODEL_LEN says how many
STREAMS = (1, 8)  # sequences for which tokens a second are told
FORMS = ("", "int8", "int4")  # values of OMNI_QUANTIZE that experts in host memory may have
EXPERTS, HEAD, OTHER = "routed experts", "embeddings and head", "other"
LAYER_PARTS = ("indexer", "attention", "shared experts")  # of each layer, or nearly
# parts of names of matrices that runners hold in float32, and, whatever the checkpoint's form, in the model's dtype
IN_FLOAT32, IN_DTYPE = (".indexer.weights_proj.", ".mlp.gate."), (".kv_b_proj.",)
FLOAT32_ROUTERS = "e_score_correction_bias"  # a buffer that models have whose routers compute in float32
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

    def lacking(self, there: "Needs", *, knows_disk: bool) -> "Needs":
        """`knows_disk`: whether `there` tells of the disk; of another machine's nothing is known, so nothing lacks."""
        disk = max(0, self.disk - there.disk) if knows_disk else 0
        return Needs(max(0, self.device - there.device), max(0, self.host - there.host), disk)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a machine that need not be this one."""

    ram: int | None = None  # bytes of memory; None: this machine's
    bandwidth: float | None = None  # bytes a second that its cores read of that

    @property
    def hosts(self) -> tuple[float, ...]:
        """Bytes a second to tell speeds by; none to measure it here."""
        if self.bandwidth is not None:
            return (self.bandwidth,)
        return () if self.ram is None else SUPPOSED_HOSTS

    @property
    def whose(self) -> str:
        """Where the bytes a second are from."""
        return "given" if self.bandwidth is not None else "measured" if self.ram is None else "supposed"


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
    tokens_per_s: list[tuple[float, ...]]  # by each of the rates, of all streams together, for each of STREAMS


@dataclass(frozen=True, slots=True)
class SparseModel:
    """A model with routed experts, and the machine that is to run it."""

    checkpoint: Checkpoint
    shape: ModelShape
    machine: Machine
    config: EngineConfig  # without a quantization
    there: Needs  # that the machine has
    knows_disk: bool

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, shape: ModelShape, machine: Machine, config: EngineConfig, asked: Asked
    ) -> "SparseModel | None":
        """None for a model without routed experts."""
        is_sparse = next(expert_matrices(checkpoint.model), None) is not None
        if not is_sparse:
            return None
        there, knows_disk = what_is_there(machine, config, asked.ram), machine.is_here and asked.ram is None
        return cls(checkpoint, shape, machine, replace(config, quantization=None), there, knows_disk)

    def plan(self, quantize: str, rates: Sequence[Rates]) -> SparsePlan:
        """With experts in this form."""
        checkpoint, config, is_gpu = self.checkpoint, self.config, self.machine.device.type != "cpu"
        model = checkpoint.model
        dtype = dtype_for(
            config,
            self.machine.device,
            checkpoint.saved,
            count_parameters(model),
            is_packed=checkpoint.packing is not None,
        )
        parts = part_bytes(checkpoint, dtype, quantize)
        experts, num_experts = parts.pop(EXPERTS), num_routed(model)
        loaded, rest = stand_in(checkpoint, self.machine, dtype, config), sum(parts.values())
        workspace = workspace_bytes(loaded, config, num_experts) if is_gpu else 0
        context = min(config.max_model_len or CONTEXT, checkpoint.max_model_len)
        keys = context * sum(layer.token_bytes(kv_dtype(loaded, config)) for layer in self.shape.layers)
        beside = rest + keys + workspace
        released = 0 if checkpoint.has_weights else released_bytes(checkpoint)
        packed = experts if is_stored(checkpoint, config) else 0
        needs = Needs(beside if is_gpu else 0, experts + RESERVED_BYTES + (0 if is_gpu else beside), packed + released)
        read = rest - unread_bytes(model, dtype)
        return SparsePlan(
            quantize,
            experts,
            parts,
            context,
            keys,
            workspace,
            needs,
            needs.lacking(self.there, knows_disk=self.knows_disk),
            [tuple(self.speed(rate, read, experts, num) for num in STREAMS) for rate in rates],
        )

    def speed(self, rates: Rates, rest: int, experts: int, num: int) -> float:
        """Tokens a second of so many streams. `rest`, `experts`: bytes, the latter's of all."""
        model, is_gpu = self.checkpoint.model, self.machine.device.type != "cpu"
        num_layers = model.config.get_text_config().num_hidden_layers
        return num / rates.seconds(rest, experts * share_of(model, num), num_layers, is_gpu=is_gpu)


def sparse_report(
    checkpoint: Checkpoint, machine: Machine, config: EngineConfig, asked: Asked
) -> dict[str, object] | None:
    """A plan for each form of the experts, as JSON; None for a model without routed experts."""
    model = SparseModel.of(checkpoint, shape_of(checkpoint.model), machine, config, asked)
    if model is None:
        return None
    found = rates(machine.device if machine.is_here else None, asked.hosts)
    return {
        "plans": [asdict(model.plan(quantize, found)) for quantize in FORMS],
        "rates": {"host": [each.host for each in found], "device": found[0].device, "whose": asked.whose},
        "ram": asked.ram,
    }


def what_is_there(machine: Machine, config: EngineConfig, ram: int | None) -> Needs:
    """Of the machine: memory of the device that a model may have, memory, and the disk of the packed experts."""
    device = int(machine.total * config.gpu_memory_utilization) - machine.used
    return Needs(device, ram or total_bytes(), room_on_disk(config.packed_folder or Path.cwd()))


def is_stored(checkpoint: Checkpoint, config: EngineConfig) -> bool:
    """Whether the loader packs the experts into files, as worker/models/experts/stored.py does."""
    is_read = checkpoint.form is not None or checkpoint.packing is None
    is_text = not is_vision_model(checkpoint.model.config)
    return config.packed_folder is not None and is_read and is_text and num_routed(checkpoint.model) >= LEAST_NUMBERS


def part_bytes(checkpoint: Checkpoint, dtype: torch.dtype, quantize: str) -> dict[str, int]:
    """Of each part of the model, in memory, as the runners hold it."""
    sizes = defaultdict[str, float](float)
    has_float32 = any(name.endswith(FLOAT32_ROUTERS) for name, _ in checkpoint.model.named_buffers())
    in_float32 = IN_FLOAT32 if has_float32 else ()
    sizes[EXPERTS] = expert_bytes(checkpoint, dtype, quantize)
    experts = {matrices.name for matrices in expert_matrices(checkpoint.model)}
    for name, parameter, width in stored_widths(checkpoint, dtype):
        if name not in experts:
            held = torch.float32.itemsize if any(word in name for word in in_float32) else width
            is_absorbed = any(word in name for word in IN_DTYPE)
            sizes[part_of(name)] += parameter.numel() * (dtype.itemsize if is_absorbed else held)
    return {part: int(size) for part, size in sizes.items()}


def expert_bytes(checkpoint: Checkpoint, dtype: torch.dtype, quantize: str) -> int:
    """Of the routed experts, as the CPU's kernels hold them."""
    quantization = quantization_named(quantize)
    if quantization is None:
        return routed_bytes(checkpoint, dtype)
    total = 0
    for each in expert_matrices(checkpoint.model):
        one = each.num_out * each.num_in * dtype.itemsize
        if quantization.fits(each.num_out, each.num_in):
            one = packed_size(quantization, each.num_out, each.num_in, dtype, torch.device("cpu"))
        total += each.num_experts * one
    return total


def part_of(name: str) -> str:
    """The part of the model that a parameter of this name belongs to."""
    return next((part for word, part in PARTS.items() if word in f".{name}"), OTHER)


def unread_bytes(model: Any, dtype: torch.dtype) -> int:
    """Of the embeddings, from which a step takes some rows, unless they are the head too."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_shared = head is not None and head.weight is embedding.weight
    return 0 if is_shared else embedding.weight.numel() * dtype.itemsize


def released_bytes(checkpoint: Checkpoint) -> int:
    """Of the files, with a layer that predicts a token more where the release has one."""
    text, parts = checkpoint.model.config.get_text_config(), defaultdict[str, float](float)
    experts = {matrices.name for matrices in expert_matrices(checkpoint.model)}
    for name, parameter, width in stored_widths(checkpoint, checkpoint.saved):
        parts[EXPERTS if name in experts else part_of(name)] += parameter.numel() * width
    num_layers, num_sparse = text.num_hidden_layers, len(experts) // 2
    per_layer = sum(parts[name] for name in LAYER_PARTS) / num_layers + parts[EXPERTS] / num_sparse
    more = per_layer + parts[HEAD] + 2 * text.hidden_size**2 * checkpoint.saved.itemsize
    return int(sum(parts.values()) + (getattr(text, "num_nextn_predict_layers", 0) or 0) * more)
