"""The weights of a product in one form for all checkpoints and kernels: dense, or packed with scales."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional as F

from worker.kernels.elementwise import FP8

WeightKind = Literal["dense", "int8", "int4", "fp8", "fp8_blocks", "mxfp4"]
FEW_ROWS = 16  # of inputs: so many fit one tile, and their products wait for the weights
SCALE_BLOCK = 128  # rows and columns that share a scale of fp8_blocks
MX_GROUP = 32  # columns that share a scale of mxfp4
E8M0_BIAS = 127
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of mxfp4's lower three bits; the fourth is the sign


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A matrix [out, in] that multiplies inputs [T, in]; or several ones of equal shape, [..., out, in].

    int8: `scales` [out], or [out, groups] with `group` columns each. fp8 (e4m3): [out]. fp8_blocks: one per SCALE_BLOCK
    rows and columns, [out / SCALE_BLOCK, in / SCALE_BLOCK]. int4: [out, groups]. mxfp4: [out, groups], exponents e8m0
    as bytes. Scales are float32, or 16-bit as a checkpoint has them.
    Codes decode to code * scale; int8 and int4 with `minimums` [out, groups] to code * scale + minimum; int4 without to
    (base + code - offset) * scale with the offset [out, groups] of its group, or base + 8 if there are no offsets.
    Nibbles: byte k of a row holds columns k and k + half, half being a multiple of the group.
    """

    kind: WeightKind
    dtype: torch.dtype  # of inputs and outputs
    num_in: int
    codes: torch.Tensor  # [..., out, in]: `dtype`, int8, or e4m3 as bytes; nibbles: [..., out, half] bytes
    scales: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    group: int = 0
    minimums: torch.Tensor | None = None
    order: torch.Tensor | None = None  # int64 [in]: the matrix multiplies inputs[:, order]
    inputs: Literal["", "int8", "fp8"] = ""  # that the checkpoint was made to round its inputs to, a scale per token

    @property
    def num_out(self) -> int:
        return self.codes.shape[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-1], self.num_in)

    @property
    def num_bytes(self) -> int:
        """That a product reads of the weights."""
        parts = (self.codes, self.scales, self.offsets, self.minimums)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def map_parts(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Weights":
        """The weights with each tensor of a matrix changed: rows or matrices taken, or moved."""
        return replace(
            self,
            codes=change(self.codes),
            scales=None if self.scales is None else change(self.scales),
            offsets=None if self.offsets is None else change(self.offsets),
            minimums=None if self.minimums is None else change(self.minimums),
        )

    def matrix(self, index: int) -> "Weights":
        """One of several, along their first dimension."""
        return self.map_parts(lambda part: part[index])

    def rows(self, start: int, stop: int | None = None) -> "Weights":
        """Rows `[start, stop)`; of fp8_blocks, `start` is a multiple of SCALE_BLOCK."""
        if self.kind != "fp8_blocks":
            return self.map_parts(
                lambda part: part[..., start:stop] if is_per_row(part, self) else part[..., start:stop, :]
            )
        assert self.scales is not None and start % SCALE_BLOCK == 0
        stop = self.num_out if stop is None else min(stop, self.num_out)
        blocks = slice(start // SCALE_BLOCK, -(-stop // SCALE_BLOCK))
        return replace(self, codes=self.codes[..., start:stop, :], scales=self.scales[..., blocks, :])

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> "Weights":
        """On another device; for inputs and outputs of another type, to which dense codes and int4's offsets follow."""
        moved = self if device is None else self.map_parts(lambda part: part.to(device))
        if moved.order is not None:
            moved = replace(moved, order=moved.order.to(moved.codes.device))
        if dtype is None or dtype == self.dtype:
            return moved
        if moved.kind == "dense":
            return replace(moved, dtype=dtype, codes=moved.codes.to(dtype))
        if moved.offsets is not None:
            zeros = (moved.offsets.float() - base(self.dtype) + base(dtype)).to(dtype)
            return replace(moved, dtype=dtype, offsets=zeros)
        return replace(moved, dtype=dtype)

    def dense(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `[start, stop)` of the matrix, [..., rows, in], for inputs in their own order."""
        if self.codes.dim() > 2:
            return torch.stack([self.matrix(index).dense(start, stop) for index in range(len(self.codes))])
        numbers = self._decoded(start, stop)
        return numbers if self.order is None else numbers[:, self.order.argsort()]

    def _decoded(self, start: int, stop: int | None) -> torch.Tensor:
        codes = self.codes[start:stop]
        if self.kind == "dense":
            return codes
        assert self.scales is not None
        if self.kind == "fp8_blocks":
            rows = torch.arange(start, start + len(codes), device=codes.device) // SCALE_BLOCK
            scales = self.scales[rows].repeat_interleave(SCALE_BLOCK, dim=1)[:, : self.num_in]
            return codes.view(FP8).to(self.dtype).mul_(scales)
        if self.kind == "fp8":
            return codes.view(FP8).to(self.dtype).mul_(self.scales[start:stop, None])  # computed in float32
        if self.kind == "int8" and not self.group:
            return codes.to(self.dtype).mul_(self.scales[start:stop, None])
        if self.kind == "int8":
            numbers = F.pad(codes, (0, self.scales.shape[1] * self.group - codes.shape[1])).float()
        else:
            numbers = torch.cat([codes & 15, codes >> 4], dim=1).float()
        return self._scaled(numbers.view(len(codes), -1, self.group), start, stop)[:, : self.num_in]

    def _scaled(self, numbers: torch.Tensor, start: int, stop: int | None) -> torch.Tensor:
        """Codes [rows, groups, group], in float32, as numbers [rows, columns] of `dtype`."""
        assert self.scales is not None
        scales = self.scales[start:stop, :, None]
        if self.kind == "mxfp4":
            values = torch.tensor([*E2M1, *(-number for number in E2M1)], device=numbers.device)
            numbers = values[numbers.int()] * torch.exp2(scales.float() - E8M0_BIAS)
        elif self.minimums is not None:
            numbers = torch.addcmul(self.minimums[start:stop, :, None].float(), numbers, scales.float())
        elif self.kind == "int8":
            numbers = numbers * scales.float()
        else:
            offset = 8 if self.offsets is None else self.offsets[start:stop, :, None].float() - base(self.dtype)
            numbers = (numbers - offset) * scales.float()
        return numbers.to(self.dtype).flatten(1)


def check_parts(weights: Weights) -> None:
    """Raises ValueError for scales, offsets or an order whose shapes do not fit the codes."""
    *lead, num_out, num_columns = weights.codes.shape
    if weights.kind == "dense":
        return
    if weights.kind == "fp8_blocks":
        expected = (*lead, -(-num_out // SCALE_BLOCK), -(-num_columns // SCALE_BLOCK))
    elif weights.group:
        is_halved = weights.kind in ("int4", "mxfp4")
        expected = (*lead, num_out, -(-num_columns * (1 + is_halved) // weights.group))
    else:
        expected = (*lead, num_out)
    for name in ("scales", "offsets", "minimums"):
        part = getattr(weights, name)
        if part is not None and tuple(part.shape) != expected:
            raise ValueError(f"its {name} have the shape {list(part.shape)}, and {list(expected)} is needed")
    if weights.order is not None and weights.order.shape != (weights.num_in,):
        raise ValueError(f"its order has {len(weights.order)} columns, and the matrix {weights.num_in}")


def is_per_row(part: torch.Tensor, weights: Weights) -> bool:
    """True for scales with one number per row."""
    return part.dim() < weights.codes.dim()


def can_join(parts: Seq[Weights]) -> bool:
    """True for matrices that can be stacked along their outputs and computed as one."""
    first = parts[0]

    def form(weights: Weights) -> tuple[object, ...]:
        has = (weights.offsets is not None, weights.minimums is not None, weights.inputs)
        types = (weights.codes.dtype, weights.scales.dtype if weights.scales is not None else None)
        return (weights.kind, weights.dtype, weights.num_in, weights.group, weights.codes.shape[:-2], *has, *types)

    whole = first.kind != "fp8_blocks" or all(part.num_out % SCALE_BLOCK == 0 for part in parts[:-1])
    orders = [part.order for part in parts]
    same_order = all(order is None for order in orders) or all(
        order is not None and orders[0] is not None and torch.equal(order, orders[0]) for order in orders
    )
    return whole and same_order and all(form(part) == form(first) for part in parts)


def joined_weights(parts: Seq[Weights]) -> Weights:
    """The matrices stacked along their outputs; can_join() is true."""
    return merged(parts, lambda found: torch.cat(found, dim=-1 if is_row_of(found[0], parts[0]) else -2))


def stacked_weights(parts: Seq[Weights]) -> Weights:
    """The matrices as one more dimension before all others; can_join() is true."""
    return merged(parts, torch.stack)


def is_row_of(part: torch.Tensor, weights: Weights) -> bool:
    return part is weights.scales and is_per_row(part, weights)


def merged(parts: Seq[Weights], merge: Callable[[list[torch.Tensor]], torch.Tensor]) -> Weights:
    def of_all(name: str) -> torch.Tensor | None:
        found = [part for weights in parts if (part := getattr(weights, name)) is not None]
        return merge(found) if found else None

    codes = merge([weights.codes for weights in parts])
    scales, offsets, minimums = of_all("scales"), of_all("offsets"), of_all("minimums")
    return replace(parts[0], codes=codes, scales=scales, offsets=offsets, minimums=minimums)


def base(dtype: torch.dtype) -> int:
    """The number whose last bits an int4 code replaces: from here on, numbers of this type are integers."""
    return 1024 if dtype == torch.float16 else 128
