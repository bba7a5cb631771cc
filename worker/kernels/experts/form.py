"""Experts' matrices in the order in which the C kernels of worker/kernels/experts.h read them, and back, by torch.

All is done alike for one matrix [out, in] and for several, [experts, out, in]: an expert's part of each tensor is
contiguous, and tensors of all experts are those of each, stacked.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from worker.kernels.experts.activation import Activation
from worker.kernels.packed.layout import E2M1_DOUBLED, FORMS, PANEL, halved_powers
from worker.kernels.packed.weights import E8M0_BIAS, SCALE_BLOCK, WeightKind, Weights, base

PART = 32  # columns that are prepared together, and outputs of the activation that one thread computes
Tensors = Mapping[str, torch.Tensor]
Gates = Literal["", "first", "alternating"]


@dataclass(frozen=True, slots=True)
class MatrixForm:
    """One of the two matrices of each expert."""

    kind: WeightKind
    dtype: str  # of inputs and outputs
    num_out: int
    num_in: int
    group: int
    gates: Gates = ""  # which of the outputs are gates

    @property
    def width(self) -> int:
        """Columns, with those that are added."""
        return -(-self.num_in // PART) * PART

    @property
    def columns(self) -> int:
        """That share a scale."""
        return self.group or (SCALE_BLOCK if self.kind == "fp8_blocks" else self.width)

    @property
    def num_groups(self) -> int:
        return -(-self.width // self.columns)

    def lanes(self) -> torch.Tensor:
        """The output that stands at each place of the panels; `num_out` where there is none."""
        if not self.gates:
            return F.pad(torch.arange(self.num_out), (0, -self.num_out % (2 * PANEL)), value=self.num_out)
        both = torch.arange(self.num_out)
        both = both.view(2, -1) if self.gates == "first" else both.view(-1, 2).T
        missing = -both.shape[1] % PART
        return F.pad(both, (0, missing), value=self.num_out).view(2, -1, PANEL).transpose(0, 1).flatten()

    @property
    def has_panel_scales(self) -> bool:
        """One scale for all outputs of a panel."""
        if self.kind != "fp8_blocks":
            return False
        lanes = self.lanes().view(-1, PANEL)
        return bool(((lanes // SCALE_BLOCK == lanes[:, :1] // SCALE_BLOCK) | (lanes == self.num_out)).all())


@dataclass(frozen=True, slots=True)
class ExpertsForm:
    """The experts of a layer, without their numbers."""

    up: MatrixForm
    down: MatrixForm
    activation: Activation

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, about: Mapping[str, Any]) -> "ExpertsForm":
        return cls(MatrixForm(**about["up"]), MatrixForm(**about["down"]), Activation(**about["activation"]))

    @classmethod
    def of(cls, up: Weights, down: Weights, activation: Activation) -> "ExpertsForm":
        gates: Gates = "" if not activation.has_gate else "alternating" if activation.alternates else "first"
        return cls(matrix_form(up, gates), matrix_form(down, ""), activation)


def matrix_form(weights: Weights, gates: Gates) -> MatrixForm:
    dtype = str(weights.dtype).removeprefix("torch.")
    return MatrixForm(weights.kind, dtype, weights.num_out, weights.num_in, weights.group, gates)


def can_lay_out(weights: Weights) -> bool:
    """True for forms that the kernels read."""
    if weights.order is not None:
        return False
    if weights.kind == "int8":
        return weights.group in (0, PANEL) or weights.group % PART == 0
    if weights.kind in ("int4", "mxfp4"):
        return weights.group % PART == 0
    return weights.kind != "dense" or weights.dtype in (torch.bfloat16, torch.float32)


def lay_out(form: ExpertsForm, up: Weights, down: Weights) -> dict[str, torch.Tensor]:
    """The tensors of one expert, or of all. Runs in any thread; torch computes it without Python's lock."""
    parts = {"up": lay_out_matrix(form.up, up), "down": lay_out_matrix(form.down, down)}
    return {f"{name}.{part}": tensor for name, found in parts.items() for part, tensor in found.items()}


def plain_weights(form: ExpertsForm, tensors: Tensors) -> tuple[Weights, Weights]:
    """What lay_out() had, `up` and `down`, of one expert or of several, on the device of the tensors."""
    return plain_matrix(form.up, tensors, "up."), plain_matrix(form.down, tensors, "down.")


def lay_out_matrix(form: MatrixForm, weights: Weights) -> dict[str, torch.Tensor]:
    lanes = form.lanes()
    found = {"codes": in_words(form, in_lanes(columns_of(form, weights), lanes))}
    scales = weights.scales
    if form.has_panel_scales:
        assert scales is not None
        blocks = F.pad(scales.float(), (0, 0, 0, 1)).index_select(-2, lanes[::PANEL] // SCALE_BLOCK)
        return found | {"scales": blocks.contiguous()}
    if scales is not None and form.kind == "fp8_blocks":
        scales = scales.repeat_interleave(SCALE_BLOCK, dim=-2)[..., : form.num_out, :]
    if scales is not None:
        scales = halved_powers(scales) if form.kind == "mxfp4" else scales
        found["scales"] = in_groups(form, scales if scales.dtype in FORMS else scales.float(), lanes)
    if weights.minimums is not None:
        found["minimums"] = in_groups(form, weights.minimums.to(found["scales"].dtype), lanes)
    if weights.offsets is not None:
        found["offsets"] = in_groups(form, (weights.offsets.float() - base(weights.dtype)).to(torch.uint8), lanes)
    return found


def columns_of(form: MatrixForm, weights: Weights) -> torch.Tensor:
    """Codes [..., out, width], one in each number, as the kernels count them."""
    codes = weights.codes
    if form.kind == "int8":
        codes = codes.view(torch.uint8) ^ 0x80
    elif form.kind in ("int4", "mxfp4"):
        codes = torch.cat([codes & 15, codes >> 4], dim=-1)[..., : form.width]
    return F.pad(codes, (0, form.width - codes.shape[-1]))


def split(tensor: torch.Tensor, dim: int, *sizes: int) -> torch.Tensor:
    """One dimension as several."""
    shape = list(tensor.shape)
    shape[dim : dim + 1 or None] = sizes
    return tensor.view(shape)


def in_lanes(rows: torch.Tensor, lanes: torch.Tensor) -> torch.Tensor:
    """[..., out, n] -> [..., panels, PANEL, n]."""
    taken = F.pad(rows, (0, 0, 0, 1)).index_select(-2, lanes.to(rows.device))
    return split(taken, -2, -1, PANEL)


def in_words(form: MatrixForm, codes: torch.Tensor) -> torch.Tensor:
    """[..., panels, PANEL, width] -> bytes [..., n]."""
    if form.kind in ("fp8", "fp8_blocks"):
        pairs = split(split(codes.view(torch.int16), -2, 4, 4), -1, -1, 2)
        words = pairs.permute(*range(pairs.dim() - 4), -2, -4, -1, -3)
    else:
        if form.kind in ("int4", "mxfp4"):
            low, high = split(codes, -1, -1, 2, 4).unbind(-2)
            codes = (low | high << 4).flatten(-2)
        words = codes.view(torch.int32).transpose(-1, -2)
    return words.contiguous().view(torch.uint8).flatten(codes.dim() - 3)


def in_groups(form: MatrixForm, numbers: torch.Tensor, lanes: torch.Tensor) -> torch.Tensor:
    """[..., out] or [..., out, groups] -> [..., panels, groups, PANEL]."""
    if form.kind == "fp8" or (form.kind == "int8" and not form.group):
        numbers = numbers[..., None]
    numbers = F.pad(numbers[..., : form.num_groups], (0, form.num_groups - min(form.num_groups, numbers.shape[-1])))
    return in_lanes(numbers, lanes).transpose(-1, -2).contiguous()


def plain_matrix(form: MatrixForm, tensors: Tensors, prefix: str) -> Weights:
    found = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
    dtype = getattr(torch, form.dtype)
    places = form.lanes().argsort(stable=True)[: form.num_out].to(found["codes"].device)
    codes = from_words(form, found["codes"]).flatten(-3, -2).index_select(-2, places)
    scales, offsets, minimums = (
        from_groups(form, found[name], places) if name in found else None for name in ("scales", "offsets", "minimums")
    )
    if scales is not None and form.kind == "mxfp4":
        scales = (scales.float().log2() + E8M0_BIAS + 1).round().to(torch.uint8)
    if scales is not None and (form.kind == "fp8" or (form.kind == "int8" and not form.group)):
        scales = scales[..., 0]
    if offsets is not None:
        offsets = (offsets.float() + base(dtype)).to(dtype)
    return Weights(form.kind, dtype, form.num_in, codes, scales, offsets, form.group, minimums)


def from_words(form: MatrixForm, words: torch.Tensor) -> torch.Tensor:
    """Bytes [..., n] -> codes as Weights has them, [..., panels, PANEL, columns]."""
    num_panels = len(form.lanes()) // PANEL
    if form.kind in ("fp8", "fp8_blocks"):
        pairs = split(words.view(torch.int16), -1, num_panels, form.width // 4, 4, 2, 4)
        codes = pairs.permute(*range(pairs.dim() - 4), -3, -1, -4, -2).contiguous().flatten(-4, -3).flatten(-2)
        return codes.view(torch.uint8)[..., : form.num_in]
    columns = split(words.view(torch.int32), -1, num_panels, -1, PANEL).transpose(-1, -2).contiguous()
    if form.kind == "dense":
        return columns.view(getattr(torch, form.dtype))[..., : form.num_in]
    codes = columns.view(torch.uint8)
    if form.kind == "int8":
        return (codes ^ 0x80).view(torch.int8)[..., : form.num_in]
    codes = split(torch.stack([codes & 15, codes >> 4], dim=-1), -2, -1, 4).transpose(-1, -2).flatten(-3)
    half = -(-form.num_in // (2 * form.group)) * form.group
    codes = F.pad(codes[..., : 2 * half], (0, max(0, 2 * half - codes.shape[-1])))
    return codes[..., :half] | codes[..., half:] << 4


def from_groups(form: MatrixForm, numbers: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[..., panels, groups, PANEL], or [..., panels, groups] of panels with one scale -> as Weights has them."""
    if form.kind == "fp8_blocks":
        first = places[::SCALE_BLOCK]
        if form.has_panel_scales:
            return numbers.index_select(-2, first // PANEL)
        return numbers.transpose(-1, -2).flatten(-3, -2).index_select(-2, first)
    rows = numbers.transpose(-1, -2).flatten(-3, -2).index_select(-2, places)
    is_halved = form.kind in ("int4", "mxfp4")
    num_groups = -(-form.num_in // (2 * form.group)) * 2 if is_halved else -(-form.num_in // form.columns)
    return F.pad(rows[..., :num_groups], (0, max(0, num_groups - rows.shape[-1])))


def values_of(form: MatrixForm) -> bytes | None:
    """The whole numbers that codes stand for, where they are not these themselves."""
    return bytes(number + zero_of(form, False) for number in E2M1_DOUBLED) if form.kind == "mxfp4" else None


def zero_of(form: MatrixForm, has_least: bool) -> int:
    """The code of zero."""
    if form.kind == "mxfp4":
        return -min(E2M1_DOUBLED)
    if form.kind == "int8":
        return 128
    return 8 if form.kind == "int4" and not has_least else 0
