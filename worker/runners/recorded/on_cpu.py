"""Decode steps on a CPU, each recorded when it first comes and replayed from then on; see program.py."""

import ctypes
import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from worker.runners.recorded.program import NotRecorded, Program, StepMemory
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)

MAX_SEQS = 64  # that decode together in a recorded step: the products of more take longer than Python


@dataclass(frozen=True, slots=True)
class NativeInputs:
    """What the kernels of a step read: [T, ...] each, but for the block tables, one after the other."""

    hidden: torch.Tensor  # overwritten
    cos: torch.Tensor
    sin: torch.Tensor
    slots: torch.Tensor  # int64
    items: np.ndarray  # int32 [tiles, 4], see attention.c
    tables: np.ndarray  # int32

    def copy_from(self, other: "NativeInputs") -> "NativeInputs":
        """The first rows, which hold those of `other` from now on."""
        count = len(other.hidden)
        mine = NativeInputs(
            self.hidden[:count], self.cos[:count], self.sin[:count], self.slots[:count], self.items[:count], self.tables
        )
        mine.hidden.copy_(other.hidden)
        mine.cos.copy_(other.cos)
        mine.sin.copy_(other.sin)
        mine.slots.copy_(other.slots)
        mine.items[:] = other.items
        mine.tables[: len(other.tables)] = other.tables
        return mine

    @classmethod
    def with_room_for(cls, other: "NativeInputs", num_tokens: int, num_blocks: int) -> "NativeInputs":
        """Of the same kinds as in `other`."""
        hidden, cos, sin, slots = (
            part.new_empty(num_tokens, *part.shape[1:]) for part in (other.hidden, other.cos, other.sin, other.slots)
        )
        items = np.zeros((num_tokens, other.items.shape[1]), other.items.dtype)
        return cls(hidden, cos, sin, slots, items, np.zeros(num_blocks, other.tables.dtype))


class NativeSteps:
    """The recorded steps of a NativeRunner, by their number of sequences."""

    def __init__(self, kernels: ctypes.CDLL, max_model_len: int, block_size: int, max_num_seqs: int) -> None:
        self.kernels = kernels
        self.max_num_seqs = min(MAX_SEQS, max_num_seqs)
        self.num_blocks = self.max_num_seqs * -(-max_model_len // block_size)
        self.lock = Lock()  # one step at a time uses the inputs and the memory
        self.inputs: NativeInputs | None = None
        self.memory = StepMemory(self.max_num_seqs)
        self.programs: dict[int, tuple[Program, torch.Tensor] | None] = {}  # None: it cannot be recorded

    def holds(self, rows: Seq[ScheduledSequence], inputs: NativeInputs, num_selected: int) -> bool:
        """True for a step that can be recorded: each sequence reads one token, and wants its logits."""
        num_rows = len(rows)
        return (
            self.programs.get(num_rows, ()) is not None
            and num_rows == len(inputs.hidden) == num_selected == len(inputs.items)
            and num_rows <= self.max_num_seqs
            and len(inputs.tables) <= self.num_blocks
        )

    @torch.inference_mode()
    def run(
        self, compute: Callable[[NativeInputs], torch.Tensor], inputs: NativeInputs, selected: torch.Tensor
    ) -> torch.Tensor | None:
        """The `selected` logits of a step that this holds; None if it cannot be recorded, or another thread runs one.

        `compute`: inputs -> logits of all tokens, by the kernels.
        """
        if not self.lock.acquire(blocking=False):
            return None
        try:
            logits = self._run(compute, inputs)
            return None if logits is None else logits[selected]
        finally:
            self.lock.release()

    def _run(self, compute: Callable[[NativeInputs], torch.Tensor], inputs: NativeInputs) -> torch.Tensor | None:
        if self.inputs is None:
            self.inputs = NativeInputs.with_room_for(inputs, self.max_num_seqs, self.num_blocks)
        own = self.inputs.copy_from(inputs)
        if (recorded := self.programs.get(len(own.hidden))) is not None:
            program, logits = recorded
            program.run(self.kernels)
            return logits
        program = Program()
        try:
            with program.recording(self.memory):
                logits = compute(own)
        except NotRecorded as reason:
            logger.debug("steps of %d sequences are not recorded: %s", len(own.hidden), reason)
            self.programs[len(own.hidden)] = None
            return None
        self.programs[len(own.hidden)] = program, logits
        return logits
