"""On a CPU: the tokens of each adapter in a pass are a group with small products of its own.

One call of our C kernel computes all groups; without kernels torch computes one after the other.
"""

from collections.abc import Sequence as Seq
from ctypes import CDLL, c_int
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch.nn import functional as F

from worker.kernels.adapters.low_rank import NO_ADAPTER, LowRank
from worker.kernels.native import NoKernels, load_kernels

LANES = 16  # of worker/kernels/numbers.h
ROWS, COLUMNS, PART_FIELDS = 4, 64, 5  # of worker/kernels/low_rank.c; the last are those of a part


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The tokens of one adapter."""

    slot: int
    tokens: torch.Tensor | slice


class GroupedSlots:
    """TokenSlots as groups."""

    def __init__(self, slots: Seq[int]) -> None:
        """`slots`: of each token."""
        self._slots = slots
        self.num_tokens = len(slots)
        ordered = sorted((slot, at) for at, slot in enumerate(slots) if slot != NO_ADAPTER)
        groups = [(slot, [at for _, at in found]) for slot, found in groupby(ordered, key=lambda pair: pair[0])]
        self.groups = [TokenGroup(slot, index_of(tokens)) for slot, tokens in groups]
        self.tokens = np.array([at for _, at in ordered], np.int32)  # group by group
        stops = np.cumsum([len(tokens) for _, tokens in groups])
        self.stops = np.array([(slot, stop) for (slot, _), stop in zip(groups, stops, strict=True)], np.int64)

    def at(self, selected: torch.Tensor) -> "GroupedSlots":
        """See TokenSlots."""
        return GroupedSlots([self._slots[at] for at in selected.tolist()])


class GroupedChange:
    """A Change on a CPU."""

    def __init__(self, widths: Seq[int], num_in: int, dtype: torch.dtype) -> None:
        """`widths`: outputs of each linear layer in the product."""
        self.starts = np.cumsum([0, *widths])[:-1].tolist()
        self.num_in = num_in
        self.dtype = dtype
        self._num_parts = len(widths)
        self._parts: dict[int, Seq[LowRank | None]] = {}  # for torch
        self._tiles: dict[int, Seq[LowRankTiles | None]] = {}  # for the kernel
        self._kernel = kernel_for(dtype) if all(width % LANES == 0 for width in widths) else None
        self._in_word = c_int.in_dll(self._kernel, "in_word").value if self._kernel is not None else 1
        if num_in % (LANES * self._in_word):
            self._kernel = None
        self._table = np.zeros((1, self._num_parts, PART_FIELDS), np.int64)
        self._most_rank = 0  # of all parts of an adapter together

    def put(self, slot: int, parts: Seq[LowRank | None]) -> None:
        """See Change."""
        if self._kernel is None:
            self._parts[slot] = parts
            return
        self._tiles[slot] = [tiles_of(part, self._in_word) if part is not None else None for part in parts]
        self._tabulate()

    def drop(self, slot: int) -> None:
        """See Change."""
        self._parts.pop(slot, None)
        if self._tiles.pop(slot, None) is not None:
            self._tabulate()

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor, slots: GroupedSlots) -> None:
        """See Change."""
        if self._kernel is None:
            self._add_by_torch(inputs, outputs, slots.groups)
            return
        if not inputs.dtype == outputs.dtype == self.dtype or outputs.stride(-1) != 1:
            change = torch.zeros(outputs.shape, dtype=self.dtype)
            self.add(inputs.to(self.dtype), change, slots)
            outputs += change
            return
        inputs = inputs.contiguous()
        work = torch.empty(len(slots.tokens), self._most_rank, dtype=self.dtype)
        self._kernel.add_low_rank(
            inputs.data_ptr(), self.num_in, outputs.data_ptr(), outputs.stride(0), self._table.ctypes.data,
            len(self._table), self._num_parts, slots.stops.ctypes.data, len(slots.stops), slots.tokens.ctypes.data,
            work.data_ptr(), self._most_rank,
        )  # fmt: skip

    def _add_by_torch(self, inputs: torch.Tensor, outputs: torch.Tensor, groups: Seq[TokenGroup]) -> None:
        for group in groups:
            rows = inputs[group.tokens].to(self.dtype)
            for start, part in zip(self.starts, self._parts.get(group.slot, ()), strict=False):
                if part is not None:
                    change = rows @ part.down.t() @ part.up
                    outputs[group.tokens, start : start + part.up.shape[1]] += change.to(outputs.dtype)

    def _tabulate(self) -> None:
        """The kernel's view of the parts: addresses of down and up, rank, first output, outputs."""
        self._table = np.zeros((max(self._tiles, default=0) + 1, self._num_parts, PART_FIELDS), np.int64)
        for slot, parts in self._tiles.items():
            for at, (start, part) in enumerate(zip(self.starts, parts, strict=True)):
                if part is not None:
                    addresses = part.down.data_ptr(), part.up.data_ptr()
                    self._table[slot, at] = (*addresses, part.rank, start, part.width)
        self._most_rank = int(self._table[..., 2].sum(axis=1).max())


@dataclass(frozen=True, slots=True)
class LowRankTiles:
    """A LowRank in the order in which the kernel reads it."""

    down: torch.Tensor
    up: torch.Tensor
    rank: int  # padded
    width: int


def tiles_of(part: LowRank, in_word: int) -> LowRankTiles:
    """See low_rank.c."""
    padding = -part.rank % ROWS
    down, up = F.pad(part.down, (0, 0, 0, padding)), F.pad(part.up, (0, 0, 0, padding))
    step, (rank, width) = LANES * in_word, up.shape
    by_rows = down.view(rank // ROWS, ROWS, -1, step).transpose(1, 2)
    tiles = [tile.reshape(rank // in_word, in_word, -1).transpose(1, 2) for tile in torch.split(up, COLUMNS, dim=1)]
    return LowRankTiles(by_rows.flatten().clone(), torch.cat([tile.flatten() for tile in tiles]), rank, width)


def index_of(tokens: list[int]) -> torch.Tensor | slice:
    """A slice for neighbours."""
    if tokens[-1] - tokens[0] + 1 == len(tokens):
        return slice(tokens[0], tokens[-1] + 1)
    return torch.tensor(tokens)


def kernel_for(dtype: torch.dtype) -> CDLL | None:
    """The C kernels; None where there are none."""
    try:
        return load_kernels(dtype)
    except NoKernels:
        return None
