"""The buffers that recorded steps read, at fixed addresses, and the table of numbers that fills them.

All recordings share them, because one step runs after the other. A recording sees them through views of its shape.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worker.attention.groups import token_slots
from worker.attention.kernel import StepTensors, tile_table
from worker.device import upload
from worker.kernels.gpu.step_inputs import fill_step
from worker.runners.base import positions_of
from worker.runners.recorded.shapes import StepShape
from worker.state.scheduled_sequence import ScheduledSequence

ALIGNMENT = 16  # numbers: views begin at multiples of 64 bytes, as kernels are compiled for
KNOWN = -1  # among pending tokens, which are otherwise indices into the samples of the step in flight
NO_TILE = -1
Table = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Spare:
    """What padding tokens use."""

    block: int  # of the KV cache: they write their keys and values to its first slot
    block_size: int

    @property
    def slot(self) -> int:
        return self.block * self.block_size


class StepBuffers:
    """Room for steps of any of the shapes, and the numbers of one step at a time."""

    def __init__(
        self, shapes: Seq[StepShape], num_blocks: int, tile_queries: int, spare: Spare, device: torch.device
    ) -> None:
        """`num_blocks`: of the longest sequence."""
        self.max_keys = num_blocks * spare.block_size
        self.tile_queries = tile_queries
        self.num_logits = max(shape.num_logits for shape in shapes)
        self._spare = spare
        num_seqs = max(shape.num_seqs for shape in shapes)
        self._longs = torch.zeros(max(sum(long_sizes(shape)) for shape in shapes), dtype=torch.long, device=device)
        self._ints = torch.zeros(max(sum(int_sizes(shape)) for shape in shapes), dtype=torch.int32, device=device)
        self._block_table = torch.full((num_seqs, num_blocks), spare.block, dtype=torch.int32, device=device)
        self._no_samples = torch.zeros(1, dtype=torch.long, device=device)

    def views(self, shape: StepShape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, StepTensors]:
        """Of a recording: token ids [T], positions [T], the tokens whose logits are wanted [S], and the attention's."""
        longs, ints = long_sizes(shape), int_sizes(shape)
        inputs, positions, slots, selected = torch.split(self._longs[: sum(longs)], longs)
        starts, num_keys, tile_rows, tile_starts = torch.split(self._ints[: sum(ints)], ints)
        tensors = StepTensors(
            slots[: shape.num_tokens],
            starts[: shape.num_seqs + 1],
            num_keys[: shape.num_seqs],
            self._block_table[: shape.num_seqs],
            tile_rows[: shape.num_tiles],
            tile_starts[: shape.num_tiles],
            self.tile_queries,
        )
        return inputs[: shape.num_tokens], positions[: shape.num_tokens], selected[: shape.num_logits], tensors

    def fill(
        self, shape: StepShape, rows: Seq[ScheduledSequence], order: Seq[int], sampled: torch.Tensor | None
    ) -> None:
        """Write the step's numbers, by one transfer and one kernel. `rows` may be none; `order` as in step_table()."""
        table = step_table(shape, rows, order, self._spare, self.tile_queries)
        fill_step(
            upload(torch.from_numpy(table), self._longs.device),
            self._no_samples if sampled is None or not len(sampled) else sampled,
            self._longs[: sum(long_sizes(shape))],
            self._ints[: sum(int_sizes(shape))],
            self._block_table[: shape.num_seqs],
            padded(shape.num_tokens),
        )


def long_sizes(shape: StepShape) -> list[int]:
    """Of token ids, positions, slots, and of the tokens whose logits are wanted."""
    return [padded(shape.num_tokens)] * 3 + [padded(shape.num_logits)]


def int_sizes(shape: StepShape) -> list[int]:
    """Of the sequences' first tokens and numbers of keys, and of the tiles' sequences and first tokens."""
    return [padded(shape.num_seqs + 1), padded(shape.num_seqs), padded(shape.num_tiles), padded(shape.num_tiles)]


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def step_table(
    shape: StepShape, rows: Seq[ScheduledSequence], order: Seq[int], spare: Spare, tile_queries: int
) -> Table:
    """The numbers of a step as fill_step() takes them. Unused sequences have no tokens; unused tokens no sequence.

    `rows` are in kernel order; `order`: for each its place among the rows as they were asked for, which is the order of
    the logits.
    """
    tokens: list[int] = []
    positions: list[int] = []
    pending: list[int] = []
    wanted: dict[int, range] = {}
    starts = [0]
    for row, asked_at in zip(rows, order, strict=True):
        tokens += row.input_ids
        positions += positions_of(row)
        pending += [KNOWN] * (row.num_inputs - 1) + [KNOWN if row.pending is None else row.pending]
        starts.append(len(tokens))
        wanted[asked_at] = range(len(tokens) - row.num_samples, len(tokens))
    chunks = [(at, row.num_inputs) for at, row in enumerate(rows) if row.num_inputs > shape.num_queries]
    tiles = tile_table(chunks, tile_queries)
    selected = [at for place in sorted(wanted) for at in wanted[place]]
    columns = [
        (tokens, 0),
        (positions, 0),
        (token_slots(rows, spare.block_size), spare.slot),
        (selected, 0),
        (starts, len(tokens)),
        ([row.start + row.num_inputs for row in rows], 0),
        ([row for row, _ in tiles], NO_TILE),
        ([start for _, start in tiles], 0),
        (pending, KNOWN),
    ]
    sizes = [*long_sizes(shape), *int_sizes(shape), padded(shape.num_tokens)]
    flat: list[int] = []
    for (numbers, filler), size in zip(columns, sizes, strict=True):
        flat += numbers
        flat += [filler] * (size - len(numbers))
    return np.concatenate([np.array(flat, dtype=np.int32), block_rows(shape.num_seqs, rows, spare).ravel()])


def block_rows(num_seqs: int, rows: Seq[ScheduledSequence], spare: Spare) -> Table:
    """[num_seqs, blocks of the longest row]; kernels read no further than a row's keys."""
    numbers = [-(-(row.start + row.num_inputs) // spare.block_size) for row in rows]
    table = np.full((num_seqs, max(numbers, default=1)), spare.block, dtype=np.int32)
    for at, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        table[at, :number] = row.sequence.block_ids[:number]
    return table
