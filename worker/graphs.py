"""Decode steps on a GPU as CUDA graphs: the launch of a few hundred small kernels becomes one call.

A graph is recorded per batch size of BUCKETS over buffers that stay where they are; a step fills the buffers, pads the
batch up to the bucket with rows that write to a block of their own, and replays. Steps with prompts in them run as they
are.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch

from worker.decoder import DecoderRunner
from worker.elementwise import Elementwise, compiled
from worker.kv_cache import KVCache
from worker.model_runner import AttentionMaker, row_inputs
from worker.progress import FIRST_STEP, RECORDING, OnProgress, counted
from worker.scheduler import Row
from worker.varlen import VarlenAttention

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class StaticStep:
    """The buffers of one recorded batch size B, and the call that computes logits [B, vocab] from them."""

    inputs: torch.Tensor  # [B]
    positions: torch.Tensor  # [B]
    attention: VarlenAttention
    replay: Callable[[], torch.Tensor]


class GraphedDecoderRunner(DecoderRunner):
    """A DecoderRunner whose decode steps are recorded once and replayed."""

    def __init__(self, model: Any, kv_cache: KVCache, attend_with: AttentionMaker = VarlenAttention.of_rows) -> None:
        super().__init__(model, kv_cache, attend_with)
        self.elementwise = compiled()
        self.steps: dict[int, StaticStep] = {}
        self.spare_block = 0
        self.max_num_blocks = 0

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Record decode steps, unless attention gathers its keys: then shapes change from step to step."""
        if self.attend_with == VarlenAttention.of_rows:
            self.record(max_num_seqs, max_model_len, cuda_capture(), on_progress)

    def record(self, max_num_seqs: int, max_model_len: int, capture: Record, on_progress: OnProgress) -> None:
        """Every batch size, largest first, so that the smaller ones find memory to share."""
        self.max_num_blocks = self.kv_cache.num_blocks_for(max_model_len)
        (self.spare_block,) = self.kv_cache.pool.allocate(1)  # padding rows write here
        sizes = [size for size in BUCKETS if size < max_num_seqs] + [max_num_seqs]
        on_progress("recording graphs", RECORDING)
        span = (RECORDING, FIRST_STEP)
        for size in counted("recording graphs", reversed(sizes), len(sizes), span, on_progress):
            self.steps[size] = self._record(size, capture)
        logger.info("recorded decode steps of %s sequences", sizes)

    @torch.inference_mode()
    def forward(self, rows: Seq[Row]) -> torch.Tensor:
        """See Runner."""
        is_decode = all(row.num_inputs == 1 and row.samples for row in rows)
        size = min((size for size in self.steps if size >= len(rows)), default=None)
        if not is_decode or size is None:
            return super().forward(rows)
        step = self.steps[size]
        self._fill(step, rows, size)
        return step.replay()[: len(rows)].float()

    def _record(self, size: int, capture: Record) -> StaticStep:
        device = self.kv_cache.keys[0].device
        inputs, positions = (torch.zeros(size, dtype=torch.long, device=device) for _ in range(2))
        attention = VarlenAttention(
            self.kv_cache,
            slots=torch.full((size,), self.spare_block * self.kv_cache.block_size, device=device),
            query_starts=torch.arange(size + 1, dtype=torch.int32, device=device),
            num_keys=torch.ones(size, dtype=torch.int32, device=device),
            block_table=torch.full((size, self.max_num_blocks), self.spare_block, dtype=torch.int32, device=device),
            max_queries=1,
        )
        selected = torch.arange(size, device=device)
        replay = capture(lambda: self._run(inputs, positions, attention, selected))
        return StaticStep(inputs, positions, attention, replay)

    def _fill(self, step: StaticStep, rows: Seq[Row], size: int) -> None:
        """Copy the rows into the buffers. One tensor, one transfer: [size, 4 + blocks]."""
        block_size = self.kv_cache.block_size
        padding = [0, 0, self.spare_block * block_size, 1]
        table = []
        for row in rows:
            position = row.sequence.num_computed
            blocks = row.sequence.block_ids[: self.max_num_blocks]
            slot = blocks[position // block_size] * block_size + position % block_size
            used = [row_inputs(row)[0], position, slot, position + 1, *blocks]
            table.append(used + [self.spare_block] * (4 + self.max_num_blocks - len(used)))
        table += [padding + [self.spare_block] * self.max_num_blocks] * (size - len(rows))
        filled = torch.tensor(table).to(step.inputs.device, non_blocking=True)
        step.inputs.copy_(filled[:, 0])
        step.positions.copy_(filled[:, 1])
        step.attention.slots.copy_(filled[:, 2])
        step.attention.num_keys.copy_(filled[:, 3])
        step.attention.block_table.copy_(filled[:, 4:])


def cuda_capture() -> Record:
    """Records what a function launches, all in one memory pool; returns what replays it."""
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        with torch.inference_mode():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # the first runs may allocate and tune, which a recording must not
                for _ in range(2):
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


class UncompiledDecoderRunner(GraphedDecoderRunner):
    """For GPU machines without a working compiler."""

    def __init__(self, model: Any, kv_cache: KVCache, attend_with: AttentionMaker = VarlenAttention.of_rows) -> None:
        super().__init__(model, kv_cache, attend_with)
        self.elementwise = Elementwise()
