"""What formats with integer codes share: codes packed into int32, zeros, and the order of inputs."""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import torch

from worker.models.formats.format import TensorPart


def packed_by_auto_round(packing: Mapping[str, Any], layout: str) -> bool:
    """True for checkpoints of AutoRound in the layout "gptq" or "awq"."""
    method, form = str(packing.get("quant_method")), packing.get("packing_format")
    return method.endswith("auto-round") and form == f"auto_round:auto_{layout}"


def part_named(key: str, parts: Seq[str]) -> TensorPart | None:
    """A key such as "layers.0.mlp.up_proj.qweight" as a part of the module's weight; None if it is none of `parts`."""
    module, _, last = key.rpartition(".")
    return TensorPart(f"{module}.weight", last) if last in parts else None


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [..., words] -> codes uint8 [..., words * 32 / bits] of 4 or 8 bits, the first in a word's lowest."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
    return (octets[..., None] >> shifts & (1 << bits) - 1).flatten(-2)


def zeros_or_none(zeros: torch.Tensor, bits: int) -> torch.Tensor | None:
    """None if all zeros are the middle code, as in symmetric weights."""
    return None if bool((zeros == 1 << (bits - 1)).all()) else zeros.contiguous()


def group_order(groups: torch.Tensor, size: int) -> torch.Tensor | None:
    """The order in which inputs with the group numbers `groups` [in] stand group by group; None if they do already.

    Raises ValueError if a group but the last has not `size` inputs.
    """
    sorted_groups = torch.arange(len(groups), device=groups.device) // size
    if torch.equal(groups.long(), sorted_groups):
        return None
    order = groups.argsort(stable=True)
    if not torch.equal(groups[order].long(), sorted_groups):
        raise ValueError(f"its act-order (g_idx) has groups of other sizes than {size}")
    return order
