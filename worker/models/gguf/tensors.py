"""The tensors of a GGUF model under their names in transformers, read one at a time; quantized ones stay packed."""

import logging
import re
from collections.abc import Iterable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch

from common.model.gguf_header import StoredTensor
from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights, joined_weights
from worker.models.formats.reader import UnreadTensor
from worker.models.gguf.blocks import BLOCK_TYPES, Codes
from worker.models.gguf.families import OUTER, Family

logger = logging.getLogger(__name__)

PLAIN = MappingProxyType({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64})
NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<leaf>.+?)(?P<suffix>\.weight|\.bias)?")
FACTORS = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight")
EXPERTS = MappingProxyType(
    {
        "ffn_gate_up_exps": "gate_up_proj",
        "ffn_gate_exps": "gate_up_proj",
        "ffn_up_exps": "gate_up_proj",
        "ffn_down_exps": "down_proj",
    }
)
ONE_ROW = "ffn_gate_inp_shexp"  # a matrix of one row, stored as a vector
TURNED = ("attn_q", "attn_k")  # where llama.cpp rotates neighbouring columns
CHUNK_BYTES = 1 << 26  # of a tensor's packed rows that are taken apart at once: it takes several times as much memory


class GgufTensor(UnreadTensor):
    """A tensor of a file, or several of them joined along their outputs."""

    def __init__(self, family: Family, config: Any, dtype: torch.dtype) -> None:
        self._family = family
        self._config = config
        self._dtype = dtype
        self.stored: list[StoredTensor] = []

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.stored[0]
        if leaf_of(first.name) == ONE_ROW:
            return 1, *first.shape
        if len(self.stored) == 1:
            return first.shape
        return *first.shape[:-2], sum(one.shape[-2] for one in self.stored), first.shape[-1]

    def __getitem__(self, _: Any) -> torch.Tensor:
        parts = [self._read(stored) for stored in self.stored]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def _read(self, stored: StoredTensor) -> torch.Tensor:
        leaf = leaf_of(stored.name)
        num_rows = prod(stored.shape[:-1])
        rows = raw_bytes(stored).view(num_rows, -1)
        if self._family.rotates_neighbours and leaf in TURNED:
            rows = in_halves(rows.view(stored.shape[0], -1), self._num_heads(leaf)).view(num_rows, -1)
        if stored.type_name in BLOCK_TYPES:
            return packed(rows, stored, self._dtype)
        numbers = plain(rows, stored)
        if self._family.norms_plus_one and stored.name.endswith("norm.weight"):
            numbers = numbers.float() - 1
        return (numbers[None] if leaf == ONE_ROW else numbers).to(self._dtype)

    def _num_heads(self, leaf: str) -> int:
        config = self._config
        return int(config.num_attention_heads if leaf == "attn_q" else config.num_key_value_heads)


def model_tensors(
    stored: Iterable[StoredTensor], family: Family, config: Any, dtype: torch.dtype
) -> dict[str, GgufTensor]:
    """All tensors by their names in transformers. Raises ValueError for one that the family has no name for."""
    found: dict[str, GgufTensor] = {}
    for tensor in sorted(stored, key=is_up):  # gate before up
        if FACTORS.fullmatch(tensor.name):
            continue
        found.setdefault(model_name(tensor, family), GgufTensor(family, config, dtype)).stored.append(tensor)
    return found


def is_up(tensor: StoredTensor) -> bool:
    return leaf_of(tensor.name) == "ffn_up_exps"


def leaf_of(name: str) -> str:
    match = NAME.fullmatch(name)
    assert match is not None  # it matches any name
    return match["leaf"]


def model_name(tensor: StoredTensor, family: Family) -> str:
    match = NAME.fullmatch(tensor.name)
    assert match is not None  # it matches any name
    layer, leaf, suffix = match["layer"], match["leaf"], match["suffix"] or ""
    if layer is None:
        name = OUTER.get(leaf)
    elif leaf in EXPERTS:
        return f"model.layers.{layer}.mlp.experts.{EXPERTS[leaf]}"
    else:
        name = f"model.layers.{layer}.{family.layer[leaf]}" if leaf in family.layer else None
    if name is None:
        raise ValueError(
            f"{tensor.path.name} has a tensor {tensor.name}, which is not known of {family.model_type}. "
            "Use the model's safetensors."
        )
    return name + suffix


def stored_name(name: str, family: Family) -> str:
    """The name in the file of a tensor of the model: model_name() turned round. Of joined ones, the last."""
    stem = name.removesuffix(".weight").removesuffix(".bias")
    suffix = name.removeprefix(stem) or ".weight"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if layer is None:
        return next((f"{leaf}{suffix}" for leaf, own in OUTER.items() if own == stem), name)
    leaves = {own: leaf for leaf, own in family.layer.items()}
    leaves |= {f"mlp.experts.{own}": leaf for leaf, own in EXPERTS.items()}
    return f"blk.{layer[1]}.{leaves[layer[2]]}{suffix}" if layer[2] in leaves else name


def check_tensors(tensors: Mapping[str, GgufTensor], model: Any, family: Family, file: str) -> None:
    """Raises ValueError if a parameter of the model, which may be on the meta device, has no tensor of its shape."""
    expected = dict(model.named_parameters())
    if absent := [name for name in expected if name not in tensors]:
        raise ValueError(
            f"{len(absent)} of its {len(expected)} tensors are not in {file}, the first is "
            f"{stored_name(absent[0], family)}. Copy or download it again."
        )
    for name, parameter in expected.items():
        if tensors[name].shape != tuple(parameter.shape):
            raise ValueError(
                f"{tensors[name].stored[0].name} in {file} has the shape {tensors[name].shape}, and by the file's "
                f"metadata it is {tuple(parameter.shape)}. Copy or download it again."
            )


def factors_of(stored: Iterable[StoredTensor]) -> dict[str, list[float]]:
    """The factors of rotary frequencies that are kept as tensors, by name."""
    return {
        tensor.name: plain(raw_bytes(tensor).view(1, -1), tensor).tolist()
        for tensor in stored
        if FACTORS.fullmatch(tensor.name)
    }


def raw_bytes(stored: StoredTensor) -> torch.Tensor:
    raw = torch.empty(stored.num_bytes, dtype=torch.uint8)
    with stored.path.open("rb") as file:
        file.seek(stored.start)
        buffer: Any = raw.numpy()
        if file.readinto(buffer) != stored.num_bytes:
            raise OSError(f"{stored.path.name} ends before {stored.name}. Copy or download it again.")
    return raw


def in_halves(rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows whose neighbours belong together, as transformers has them: first halves of each head, then the others."""
    half = len(rows) // num_heads // 2
    return rows.view(num_heads, half, 2, -1).transpose(1, 2).reshape(rows.shape)


def plain(rows: torch.Tensor, stored: StoredTensor) -> torch.Tensor:
    """A tensor without codes, or one whose codes have no packed form here."""
    if stored.type_name in PLAIN:
        return rows.flatten().view(PLAIN[stored.type_name]).view(stored.shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    logger.debug("%s is %s and not kept packed", stored.name, stored.type_name)
    try:
        numbers = dequantize(rows.numpy(), GGMLQuantizationType[stored.type_name])
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{stored.name} is of type {stored.type_name}, which is not read. Choose another quantization."
        ) from error
    return torch.from_numpy(numbers).view(stored.shape)


def packed(rows: torch.Tensor, stored: StoredTensor, dtype: torch.dtype) -> PackedTensor:
    """A quantized tensor from its rows, each a sequence of blocks."""
    block, (*lead, num_in) = BLOCK_TYPES[stored.type_name], stored.shape
    chunks = [
        weights_of(block.codes(chunk.contiguous().flatten(), (len(chunk), num_in)), dtype)
        for chunk in torch.split(rows, max(1, CHUNK_BYTES // rows.shape[1]))
    ]
    whole = chunks[0] if len(chunks) == 1 else joined_weights(chunks)
    return PackedTensor(whole.map_parts(lambda part: part.view(*lead, *part.shape[1:])))


def weights_of(found: Codes, dtype: torch.dtype) -> Weights:
    """Scales that are products of two numbers are rounded to float16, except for a model in float32."""
    kept = torch.float32 if dtype == torch.float32 else torch.float16
    scales, minimums = found.scales, found.minimums
    if scales.dtype != torch.float16:
        scales, minimums = scales.to(kept), None if minimums is None else minimums.to(kept)
    return grouped_weights(found.codes, scales, found.group, found.bits, dtype, minimums=minimums)
