"""A model without its numbers: the shapes of its configuration, and the sizes that its files' headers tell."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from common.model.folder import CONFIG, fault_of
from common.model.gguf_files import gguf_files, headers_of
from common.model.gguf_header import StoredTensor, tensors_of
from worker.fit.known import KNOWN, KnownModel, known_model
from worker.kernels.packed.tensor import PackedTensor
from worker.models.config_fields import USUAL_LENGTH, is_encoder, longest_sequence
from worker.models.dtypes import count_parameters
from worker.models.formats.format import NOTHING, Format
from worker.models.formats.known import format_of
from worker.models.formats.packing import method_of, packing_of
from worker.models.formats.reader import dtype_of, on_meta, opened
from worker.models.gguf.blocks import BLOCK_TYPES
from worker.models.gguf.model import gguf_model
from worker.models.gguf.tensors import packed
from worker.models.loader import model_class
from worker.models.model_files import file_of
from worker.models.read.config import read_config

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
EXPERT_DIMENSIONS = 3  # of the weights of all experts of a layer


@dataclass(frozen=True)
class Checkpoint:
    """A model on the meta device. `packing`: how its weights are packed, empty for plain ones."""

    path: str
    model: Any
    saved: torch.dtype
    packing: Mapping[str, Any] | None
    form: Format | None  # None: plain, GGUF, or packed for one of transformers' libraries
    has_weights: bool

    @property
    def packing_name(self) -> str:
        return "" if self.packing is None else method_of(self.packing)

    @property
    def max_model_len(self) -> int:
        return longest_sequence(self.model.config.get_text_config()) or USUAL_LENGTH


def read(model_path: str) -> Checkpoint:
    """A folder, a GGUF file, a config.json, a cached hub id, or a known name. Nothing is downloaded.

    Raises OSError or ValueError.
    """
    if (known := known_model(model_path)) is not None and not is_here(model_path):
        return of_known(known)
    check_is_here(model_path)
    gguf = gguf_model(model_path)
    config = gguf.config if gguf else read_config(model_path, local_files_only=True)
    check_generates(config)
    packing = packing_of(model_path, config)
    dtype = dtype_of(config)
    model = on_meta(model_class(config), config, dtype=dtype).eval()
    if gguf is not None:
        gguf.check(model)
    return Checkpoint(model_path, model, dtype, packing, format_of(packing), gguf is not None or has_files(model_path))


def of_known(known: KnownModel) -> Checkpoint:
    config = known.config()
    dtype = dtype_of(config)
    model = on_meta(model_class(config), config, dtype=dtype).eval()
    return Checkpoint(known.hub_id, model, dtype, known.packing, format_of(known.packing), has_weights=False)


def is_here(model_path: str) -> bool:
    return Path(model_path).exists() or file_of(model_path, CONFIG) is not None


def check_is_here(model_path: str) -> None:
    """Raises ValueError for a name that stands for nothing on this machine."""
    path = Path(model_path)
    if not path.is_file() and (fault := fault_of(model_path, needs_weights=False, needs_tokenizer=False)):
        raise ValueError(f"{fault}.")
    if not is_here(model_path):
        raise ValueError(f"there is no such folder or file, nor is it in the hub's cache. {instead_of(model_path)}")


def instead_of(name: str) -> str:
    """What to do about a name that stands for nothing here, as a sentence."""
    if "/" in name:
        return f"Download it first: omni models pull {name}"
    near = get_close_matches(name.lower(), KNOWN, 1)
    return f"Did you mean {near[0]}?" if near else f"Name a folder, owner/name, or one of {', '.join(KNOWN)}."


def check_generates(config: Any) -> None:
    """Raises ValueError for an encoder."""
    if is_encoder(config):
        raise ValueError(f"it is an encoder ({config.architectures[0]}); omni fit counts models that generate text.")


def has_files(model_path: str) -> bool:
    try:
        with ExitStack() as files:
            return next(iter(opened(model_path, files)), None) is not None
    except OSError:
        return False


def parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """The numbers of parameters by kind. Weights that two layers share count once, as the embedding's."""
    model, seen = checkpoint.model, set[int]()
    found: dict[str, int] = defaultdict(int)
    kinds = {
        **{id(part.weight): "embeddings" for part in model.modules() if isinstance(part, nn.Embedding)},
        **{id(part.weight): "linear layers" for part in model.modules() if isinstance(part, nn.Linear)},
    }
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    kinds |= {id(part.weight): name for part, name in ((head, "head"), (embedding, "embeddings")) if part is not None}
    for parameter in model.parameters():
        if id(parameter) not in seen:
            is_experts = parameter.dim() >= EXPERT_DIMENSIONS and id(parameter) not in kinds
            found["experts" if is_experts else kinds.get(id(parameter), "other")] += parameter.numel()
            seen.add(id(parameter))
    return dict(found)


def weight_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """That the weights take as they are, in a model of this dtype. Raises ValueError where it cannot be told."""
    if checkpoint.packing is None:
        return count_parameters(checkpoint.model) * dtype.itemsize
    if files := gguf_files(checkpoint.path):
        return sum(gguf_bytes(stored, dtype) for stored in tensors_of(headers_of(files)))
    if checkpoint.has_weights:
        return packed_bytes(checkpoint, dtype)
    return expected_bytes(checkpoint, dtype)


def gguf_bytes(stored: StoredTensor, dtype: torch.dtype) -> int:
    """From one row of zeros, packed as the loader packs it."""
    num_rows, num_in = prod(stored.shape[:-1]), stored.shape[-1]
    if stored.type_name not in BLOCK_TYPES:
        return num_rows * num_in * dtype.itemsize
    row = replace(stored, shape=(1, num_in), num_bytes=stored.num_bytes // num_rows)
    return num_rows * packed(torch.zeros(1, row.num_bytes, dtype=torch.uint8), row, dtype).weights.num_bytes


def packed_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """From the headers of the files, and one packed weight of each shape, which is read as the loader reads it."""
    form, total = checkpoint.form, 0
    packed: dict[str, dict[str, Any]] = defaultdict(dict)
    with ExitStack() as files:
        for key, tensor in opened(checkpoint.path, files):
            part = None if form is None else form.part_of(key)
            if part is None:
                kept = TYPES[tensor.get_dtype()]
                is_cast = form is not None and kept.is_floating_point
                total += prod(tensor.get_shape()) * (dtype if is_cast else kept).itemsize
            elif part != NOTHING:
                packed[part.tensor][part.name] = tensor
        sizes: dict[object, int] = {}
        for parts in packed.values():
            assert form is not None
            alike = tuple((name, *part.get_shape(), part.get_dtype()) for name, part in sorted(parts.items()))
            if alike not in sizes:
                sizes[alike] = tensor_bytes(form.tensor({name: part[...] for name, part in parts.items()}, dtype))
            total += sizes[alike]
    return total


def tensor_bytes(tensor: torch.Tensor) -> int:
    if isinstance(tensor, PackedTensor):
        return tensor.weights.num_bytes
    return tensor.numel() * tensor.element_size()


def expected_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """From quantization_config alone: its bits and groups, for experts (mxfp4) or all layers but the head."""
    assert checkpoint.packing is not None
    bits = bits_of(checkpoint.packing)
    if checkpoint.form is None or bits is None:
        raise ValueError(f"the size of weights packed by {checkpoint.packing_name!r} cannot be told without them.")
    model, head = checkpoint.model, checkpoint.model.get_output_embeddings()
    linears = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear) and part is not head}
    is_sparse_only = packs_experts_only(checkpoint.packing)
    total = 0.0
    for parameter in model.parameters():
        is_experts = parameter.dim() >= EXPERT_DIMENSIONS
        is_packed = is_experts or (id(parameter) in linears and not is_sparse_only)
        total += parameter.numel() * (bits / 8 if is_packed else dtype.itemsize)
    return int(total)


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
