"""On a GPU: all adapters side by side in one product, of which each token keeps its own adapter's columns.

The shapes do not depend on who runs with which adapter, and nothing waits for the GPU, so that steps can be recorded.
The products are of all tokens with all adapters: with 8 of rank 16 about 3 % of a base product's operations.
"""

from collections.abc import Sequence as Seq

import torch

from worker.kernels.adapters.low_rank import NO_ADAPTER, LowRank

UNIT = 16  # columns are added in multiples of it


class Columns:
    """The columns of each slot, the same in all products."""

    def __init__(self, device: torch.device) -> None:
        self.places: dict[int, range] = {}
        self.num = 0  # all columns, used ones and free ones
        self.device = device
        self.slot_of = torch.zeros(0, dtype=torch.long, device=device)  # [num]; 0 for a free column

    def give(self, slot: int, rank: int) -> None:
        """The first free columns that suffice, or new ones at the end; `num` grows then."""
        start = 0
        for place in sorted(self.places.values(), key=lambda place: place.start):
            if place.start - start >= rank:
                break
            start = place.stop
        if start + rank > self.num:
            num = -(-(start + rank) // UNIT) * UNIT
            grown = torch.zeros(num, dtype=torch.long, device=self.device)
            grown[: len(self.slot_of)] = self.slot_of
            self.num, self.slot_of = num, grown
        self.places[slot] = range(start, start + rank)
        self.slot_of[start : start + rank] = slot

    def take(self, slot: int) -> None:
        place = self.places.pop(slot)
        self.slot_of[place.start : place.stop] = NO_ADAPTER


class StackedSlots:
    """TokenSlots as a mask of the columns that are not the token's."""

    def __init__(self, slots: torch.Tensor, columns: Columns) -> None:
        """`slots` [T], on the device."""
        self._slots, self._columns = slots, columns
        self.num_tokens = len(slots)
        self.others = (slots[:, None] != columns.slot_of) | (slots[:, None] == NO_ADAPTER)  # [T, columns]

    def at(self, selected: torch.Tensor) -> "StackedSlots":
        """See TokenSlots."""
        return StackedSlots(self._slots[selected], self._columns)


class StackedChange:
    """A Change on a GPU. It has no weights until an adapter changes its product."""

    def __init__(self, widths: Seq[int], num_in: int, dtype: torch.dtype, columns: Columns) -> None:
        self.widths, self.num_in, self.dtype, self.columns = widths, num_in, dtype, columns
        self.down: torch.Tensor | None = None  # [parts, columns, in]
        self.ups: list[torch.Tensor] = []  # of each part, [columns, out]

    def put(self, slot: int, parts: Seq[LowRank | None]) -> None:
        """See Change. The slot has its columns."""
        down = self._room()
        first = self.columns.places[slot].start
        for at, part in enumerate(parts):
            if part is not None:
                down[at, first : first + part.rank] = part.down
                self.ups[at][first : first + part.rank] = part.up

    def drop(self, slot: int) -> None:
        """See Change. The slot still has its columns."""
        place = self.columns.places[slot]
        if self.down is not None:
            for weights in (*self.down, *self.ups):
                weights[place.start : place.stop] = 0

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor, slots: StackedSlots) -> None:
        """See Change."""
        if self.down is None:
            return
        num_parts, num_columns, _ = self.down.shape
        num_tokens = slots.num_tokens
        shrunk = (inputs[:num_tokens].to(self.dtype) @ self.down.flatten(0, 1).t()).view(num_tokens, num_parts, -1)
        kept = shrunk.masked_fill(slots.others[:, None, :num_columns], 0)  # times zero, another's infinity is NaN
        start = 0
        for at, (width, up) in enumerate(zip(self.widths, self.ups, strict=True)):
            own = outputs[:num_tokens, start : start + width]
            if own.dtype == self.dtype:
                own.addmm_(kept[:, at], up)
            else:
                own += kept[:, at] @ up
            start += width

    def _room(self) -> torch.Tensor:
        """`down` with as many columns as there are; the addresses change only if there are more than before.

        All stays as it is if the memory does not suffice.
        """
        if self.down is None or self.down.shape[1] < self.columns.num:
            num, device = self.columns.num, self.columns.device
            down = torch.zeros(len(self.widths), num, self.num_in, dtype=self.dtype, device=device)
            ups = [torch.zeros(num, width, dtype=self.dtype, device=device) for width in self.widths]
            if self.down is not None:
                down[:, : self.down.shape[1]] = self.down
                for up, old_up in zip(ups, self.ups, strict=True):
                    up[: len(old_up)] = old_up
            self.down, self.ups = down, ups
        return self.down
