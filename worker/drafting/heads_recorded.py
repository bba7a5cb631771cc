"""A head's guesses on a GPU: the pass over one token of each sequence, recorded once and replayed.

Unrecorded, its 30 to 50 launches take Python longer than the GPU.
"""

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from worker.drafting.heads import DraftHead
from worker.runners.recorded.buffers import Spare, StepBuffers
from worker.runners.recorded.capture import Launches, Record
from worker.runners.recorded.recordings import counted_by
from worker.runners.recorded.shapes import VERIFIED_SEQS, StepShape, up_to
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordedGuess:
    """One recording, and the tensors that its replay writes."""

    shape: StepShape
    replay: Launches
    outputs: list[torch.Tensor]  # states [N, width], logits [N, tokens of the head]


class RecordedGuesses:
    """The recordings of one head, by number of sequences."""

    def __init__(self, head: DraftHead, kv_cache: KVCache, spare_block: int) -> None:
        """`spare_block`: of the cache, for the keys and values of padding tokens."""
        self.head = head
        self.kv_cache = kv_cache
        self._spare = Spare(spare_block, kv_cache.block_size)
        self._steps: list[RecordedGuess] = []  # smallest first
        self._buffers: StepBuffers | None = None
        self._before = torch.empty(0)  # [largest N, width]

    @property
    def recorded_sizes(self) -> list[int]:
        """The most sequences that each recording holds."""
        return [step.shape.num_seqs for step in self._steps]

    def record(self, max_num_seqs: int, max_model_len: int, like: torch.Tensor, capture: Record) -> None:
        """`like`: a state of the head. After a failure, larger numbers of sequences are not recorded."""
        hosted = self.head.hosted
        sizes = [size for size in up_to(max_num_seqs, VERIFIED_SEQS) if hosted is None or not hosted.streams(size)]
        shapes = [StepShape(size, size, 0, 1, size) for size in sizes]
        self._before = like.new_zeros(shapes[-1].num_seqs, like.shape[-1])
        num_blocks = self.kv_cache.num_blocks_for(max_model_len)
        self._buffers = StepBuffers(shapes, num_blocks, 1, self._spare, like.device)
        for shape in shapes:
            try:
                self._steps.append(self._recorded(shape, self._buffers, capture))
            except Exception as error:  # layers of any kind wait for the GPU, or there is too little memory
                logger.warning("the head's guesses for %d sequences are not recorded: %s", shape.num_seqs, error)
                return

    @torch.inference_mode()
    def replay(
        self, rows: Seq[ScheduledSequence], sampled: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """States [N, width] and logits of the rows, valid until the next replay; None if no recording holds them.

        Each row's token is pending in `sampled`. `before` [N, width]: as in DraftHead.run().
        """
        step = next((step for step in self._steps if step.shape.num_seqs >= len(rows)), None)
        longest = max(row.start for row in rows) + 1
        if step is None or self._buffers is None or longest > self._buffers.max_keys:
            return None
        self._before[: len(rows)].copy_(before)
        self._buffers.fill(step.shape, rows, range(len(rows)), sampled)
        step.replay()
        states, logits = step.outputs
        return states[: len(rows)], logits[: len(rows)]

    @torch.inference_mode()
    def _recorded(self, shape: StepShape, buffers: StepBuffers, capture: Record) -> RecordedGuess:
        token_ids, positions, _, tensors = buffers.views(shape)
        attention = self.head.recorded_attention(tensors, shape.num_queries)
        before, outputs = self._before[: shape.num_seqs], list[torch.Tensor]()
        buffers.fill(shape, [], [], None)

        def compute() -> None:
            with counted_by(self.head.hosted, tensors.query_starts[-1:]):
                states = self.head.run(token_ids, before, positions, attention)
            outputs[:] = states, self.head.logits(states)

        return RecordedGuess(shape, capture(compute), outputs)
