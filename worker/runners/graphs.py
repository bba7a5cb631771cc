"""Decode steps on a GPU as CUDA graphs: one call launches a few hundred small kernels.

A graph is recorded for each batch size of BUCKETS over buffers at fixed addresses. A step fills the buffers, pads the
batch up to the bucket with rows that write to a spare block, and replays the graph. Steps with prompts, or with more
sequences than the largest bucket, run without a graph.
"""

import logging
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worker.attention.spec import AttentionSpec
from worker.attention.varlen import VarlenAttention
from worker.device import check_device, upload
from worker.kernels.quantized import Quantization
from worker.progress import FIRST_STEP, RECORDING, OnProgress, counted
from worker.runners.base import AttentionMaker, positions_of, sampled_tokens
from worker.runners.decoder import DecoderRunner
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
FEW_SEQS = 16  # up to so many, the kernel cuts keys into parts by the maximum length, so shorter maxima get graphs too
SHORTER = (2048, 16384)  # these maxima, in tokens
NUM_FIXED = 5  # columns of step_table() before the blocks: token, pending, position, slot, number of keys
KNOWN = -1  # in the pending column, whose other values are indices into the samples of the step in flight
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class StaticStep:
    """The buffers of one recorded batch size B, and a function that computes logits [B, vocab] from them."""

    inputs: torch.Tensor  # [B]
    positions: torch.Tensor  # [B]
    attention: VarlenAttention
    replay: Callable[[], torch.Tensor]


class GraphedDecoderRunner(DecoderRunner):
    """A DecoderRunner that records decode steps once and replays them."""

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        specs: Seq[AttentionSpec],
        attend_with: AttentionMaker = VarlenAttention.of_rows,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__(model, kv_cache, specs, attend_with, quantization)
        self.steps: dict[tuple[int, int], StaticStep] = {}  # by (sequences, blocks of the longest)
        self.spare_block = 0

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Record decode steps, unless attention gathers its keys: its shapes change from step to step."""
        if self.attend_with != VarlenAttention.of_rows:
            return
        try:
            self.record(max_num_seqs, max_model_len, cuda_capture(), on_progress)
        except RuntimeError as error:  # the forward pass waits for the GPU, or there is too little memory
            logger.warning("recorded only %d of the decode steps: %s", len(self.steps), error)
        check_device()

    def record(self, max_num_seqs: int, max_model_len: int, capture: Record, on_progress: OnProgress) -> None:
        """Record every batch size, largest first, so that smaller ones share its memory."""
        (self.spare_block,) = self.kv_cache.pool.allocate(1)  # padding rows write here
        shapes = step_shapes(max_num_seqs, max_model_len, self.kv_cache.block_size)
        on_progress("recording graphs", RECORDING)
        span = (RECORDING, FIRST_STEP)
        for shape in counted("recording graphs", reversed(shapes), len(shapes), span, on_progress):
            self.steps[shape] = self._record(shape, capture)
        logger.info("recorded decode steps of (sequences, blocks of the longest): %s", shapes)

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        is_decode = all(row.num_inputs == 1 and row.samples for row in rows)
        step = self._step_for(rows) if is_decode else None
        if step is None:
            return super().forward(rows, sampled)
        self._fill(step, rows, sampled)
        return step.replay()[: len(rows)].float()

    def _step_for(self, rows: Seq[ScheduledSequence]) -> StaticStep | None:
        """The smallest recorded step that holds the rows."""
        num_blocks = self.kv_cache.num_blocks_for(max(row.start for row in rows) + 1)
        fitting = (shape for shape in self.steps if shape[0] >= len(rows) and shape[1] >= num_blocks)
        shape = min(fitting, default=None)
        return None if shape is None else self.steps[shape]

    def _record(self, shape: tuple[int, int], capture: Record) -> StaticStep:
        size, num_blocks = shape
        device = self.kv_cache.keys[0].device
        inputs, positions = (torch.zeros(size, dtype=torch.long, device=device) for _ in range(2))
        attention = VarlenAttention(
            self.kv_cache,
            slots=torch.full((size,), self.spare_block * self.kv_cache.block_size, device=device),
            query_starts=torch.arange(size + 1, dtype=torch.int32, device=device),
            num_keys=torch.ones(size, dtype=torch.int32, device=device),
            block_table=torch.full((size, num_blocks), self.spare_block, dtype=torch.int32, device=device),
            max_queries=1,
        )
        selected = torch.arange(size, device=device)
        replay = capture(lambda: self._run(inputs, positions, attention, selected))
        return StaticStep(inputs, positions, attention, replay)

    def _fill(self, step: StaticStep, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None) -> None:
        """Copy the rows into the buffers, in one transfer. The kernel skips old blocks beyond a row's keys."""
        table = step_table(rows, len(step.inputs), self.spare_block, self.kv_cache.block_size)
        filled = upload(torch.from_numpy(table), step.inputs.device)
        tokens, pending, positions, slots, num_keys = filled[:, :NUM_FIXED].unbind(1)
        if sampled is not None and len(sampled):
            tokens = torch.where(pending == KNOWN, tokens, sampled_tokens(sampled, pending.clamp(min=0)))
        step.inputs.copy_(tokens)
        step.positions.copy_(positions)
        step.attention.slots.copy_(slots)
        step.attention.num_keys.copy_(num_keys)
        step.attention.block_table[:, : table.shape[1] - NUM_FIXED].copy_(filled[:, NUM_FIXED:])


def step_shapes(max_num_seqs: int, max_model_len: int, block_size: int) -> list[tuple[int, int]]:
    """The (sequences, blocks of the longest) to record steps for, smallest first."""
    largest = min(max_num_seqs, BUCKETS[-1])
    sizes = [size for size in BUCKETS if size < largest] + [largest]
    most = -(-max_model_len // block_size)
    fewer = [length // block_size for length in SHORTER if 0 < length // block_size < most]
    return [(size, blocks) for size in sizes for blocks in [*(fewer if size <= FEW_SEQS else []), most]]


def step_table(
    rows: Seq[ScheduledSequence], size: int, spare_block: int, block_size: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[size, NUM_FIXED + blocks of the longest row]; see NUM_FIXED for the columns. Padding comes last."""
    longest = max(row.start for row in rows) // block_size + 1
    table = np.full((size, NUM_FIXED + longest), spare_block, dtype=np.int64)
    table[:, :NUM_FIXED] = (0, KNOWN, 0, spare_block * block_size, 1)
    for at, row in enumerate(rows):
        blocks = row.sequence.block_ids[: row.start // block_size + 1]
        slot = blocks[-1] * block_size + row.start % block_size
        pending = KNOWN if row.pending is None else row.pending
        table[at, :NUM_FIXED] = (row.input_ids[0], pending, positions_of(row)[0], slot, row.start + 1)
        table[at, NUM_FIXED : NUM_FIXED + len(blocks)] = blocks
    return table


def cuda_capture() -> Record:
    """A function that records the kernels another one launches, in one memory pool, and returns their replay.

    It raises RuntimeError for a function that waits for the GPU, which cannot be recorded.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        with torch.inference_mode():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                function()  # the first run may allocate, compile and tune, which cannot be recorded
                with no_waiting():
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                output = function()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay

    return capture


@contextmanager
def no_waiting() -> Iterator[None]:
    """While active, calls that make the CPU wait for the GPU raise, before a recording could break."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
