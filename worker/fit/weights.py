"""The bytes that a model's weights take as they are in the checkpoint: by its files' headers, or its configuration."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from common.model.gguf_files import gguf_files, headers_of
from common.model.gguf_header import StoredTensor, tensors_of
from worker.fit.checkpoint import Checkpoint
from worker.fit.experts import expert_matrices, expert_tensors
from worker.kernels.packed.tensor import PackedTensor
from worker.models.dtypes import count_parameters
from worker.models.experts.source import ALL, ONE, sources_of
from worker.models.formats.format import NOTHING
from worker.models.formats.packing import method_of
from worker.models.formats.reader import opened
from worker.models.gguf.blocks import BLOCK_TYPES
from worker.models.gguf.config import family_of
from worker.models.gguf.tensors import FACTORS, model_name, packed

TYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.uint8,
        "BOOL": torch.bool,
    }
)  # fmt: skip; of safetensors' headers


def weight_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """That the weights take as they are, in a model of this dtype. Raises ValueError where it cannot be told."""
    if checkpoint.packing is None:
        return count_parameters(checkpoint.model) * dtype.itemsize
    if checkpoint.has_weights:
        return sum(stored_sizes(checkpoint, dtype).values())
    if checkpoint.form is None or bits_of(checkpoint.packing) is None:
        raise ValueError(f"the size of weights packed by {checkpoint.packing_name!r} cannot be told without them.")
    return int(sum(parameter.numel() * width for _, parameter, width in stored_widths(checkpoint, dtype)))


def routed_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """That the routed experts take as they are."""
    layers, sizes = sources_of(checkpoint.model), stored_sizes(checkpoint, dtype)
    places = ((ONE.fullmatch(name) or ALL.fullmatch(name), size) for name, size in sizes.items())
    found = sum(size for place, size in places if place is not None and int(place[1]) in layers)
    if found:
        return found
    names = {matrices.name for matrices in expert_matrices(checkpoint.model)}
    widths = stored_widths(checkpoint, dtype)
    return int(sum(parameter.numel() * width for name, parameter, width in widths if name in names))


def stored_widths(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor, float]]:
    """Name and parameter, and the bytes of one of its numbers in the checkpoint's form.

    Without headers that tell, by quantization_config: bits and groups, for experts alone (packs_experts_only) or all
    layers but the head.
    """
    model, sizes = checkpoint.model, stored_sizes(checkpoint, dtype)
    head, bits = model.get_output_embeddings(), None if checkpoint.packing is None else bits_of(checkpoint.packing)
    linears = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear) and part is not head}
    has_packed_linears = checkpoint.packing is not None and not packs_experts_only(checkpoint.packing)
    experts = expert_tensors(model)
    for name, parameter in model.named_parameters():
        is_packed = id(parameter) in experts or id(parameter) in linears and has_packed_linears
        if name in sizes:
            yield name, parameter, sizes[name] / parameter.numel()
        else:
            yield name, parameter, bits / 8 if is_packed and bits is not None else dtype.itemsize


@lru_cache(maxsize=2)
def stored_sizes(checkpoint: Checkpoint, dtype: torch.dtype) -> Mapping[str, int]:
    """The bytes of each packed checkpoint's tensor, by its name in an unpacked one, in a model of this dtype.

    Empty for plain checkpoints, and for those without weights.
    """
    if checkpoint.packing is None or not checkpoint.has_weights:
        return {}
    return gguf_sizes(checkpoint, dtype) if gguf_files(checkpoint.path) else packed_sizes(checkpoint, dtype)


def gguf_sizes(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, int]:
    headers = headers_of(gguf_files(checkpoint.path))
    family, sizes = family_of(headers[0]), defaultdict[str, int](int)
    for stored in tensors_of(headers):
        if not FACTORS.fullmatch(stored.name):
            sizes[model_name(stored, family)] += gguf_bytes(stored, dtype)
    return sizes


def gguf_bytes(stored: StoredTensor, dtype: torch.dtype) -> int:
    """From one row of zeros, packed as the loader packs it."""
    num_rows, num_in = prod(stored.shape[:-1]), stored.shape[-1]
    if stored.type_name not in BLOCK_TYPES:
        return num_rows * num_in * dtype.itemsize
    row = replace(stored, shape=(1, num_in), num_bytes=stored.num_bytes // num_rows)
    return num_rows * packed(torch.zeros(1, row.num_bytes, dtype=torch.uint8), row, dtype).weights.num_bytes


def packed_sizes(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, int]:
    """From the headers of the files, and one packed weight of each shape, which is read as the loader reads it."""
    form, found = checkpoint.form, dict[str, int]()
    packed: dict[str, dict[str, Any]] = defaultdict(dict)
    with ExitStack() as files:
        for key, tensor in opened(checkpoint.path, files):
            part = None if form is None else form.part_of(key)
            if part is None:
                kept = TYPES[tensor.get_dtype()]
                is_cast = form is not None and kept.is_floating_point
                found[key] = prod(tensor.get_shape()) * (dtype if is_cast else kept).itemsize
            elif part != NOTHING:
                packed[part.tensor][part.name] = tensor
        sizes: dict[object, int] = {}
        for name, parts in packed.items():
            assert form is not None
            alike = tuple((part_name, *part.get_shape(), part.get_dtype()) for part_name, part in sorted(parts.items()))
            if alike not in sizes:
                sizes[alike] = tensor_bytes(
                    form.tensor({part_name: part[...] for part_name, part in parts.items()}, dtype)
                )
            found[name] = sizes[alike]
    return found


def tensor_bytes(tensor: torch.Tensor) -> int:
    if isinstance(tensor, PackedTensor):
        return tensor.weights.num_bytes
    return tensor.numel() * tensor.element_size()


def packs_experts_only(packing: Mapping[str, Any]) -> bool:
    """True for gpt-oss and Kimi K2 Thinking, where the layers beside routed experts are not packed."""
    ignored = packing.get("ignore") or ()
    return method_of(packing) == "mxfp4" or any(str(name).startswith("re:.*self_attn") for name in ignored)


def bits_of(packing: Mapping[str, Any]) -> float | None:
    """Bits of a weight, its scale and zero point included; None for a packing without them in its configuration."""
    method = method_of(packing)
    if method == "mxfp4":
        return 4 + 8 / 32
    if method == "fp8":
        tall, wide = packing.get("weight_block_size") or (1, 1024)
        return 8 + 32 / (tall * wide)
    if method in ("gptq", "awq"):
        group = int(packing.get("group_size", 128))
        return float(packing["bits"]) + 32 / (group if group > 0 else 4096)
    groups = packing.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return None
    scheme = next(iter(groups.values()))["weights"]
    return float(scheme["num_bits"]) + 32 / (scheme.get("group_size") or 4096)
