"""Records a runner's steps of fixed shapes, and replays the smallest that holds a step's rows.

Outside the recording a step costs one transfer and one kernel (see buffers.py). Padding tokens belong to no
sequence: they write to a spare block of the KV cache that nobody reads, and what they compute is dropped, NaN included.
Steps that fit no recording run without one.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from worker.device import check_device
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.gpu.paged_attention import tile_queries
from worker.models.config_fields import largest
from worker.progress import FIRST_STEP, RECORDING, OnProgress, counted
from worker.runners.base import ModelRunner, Run, StepAdapters, token_runs
from worker.runners.limits import MAX_DRAFTED
from worker.runners.probe import Expected, Unsupported, check_equal, max_deviation, probe_logits
from worker.runners.recorded.buffers import Spare, StepBuffers
from worker.runners.recorded.capture import Launches, Record, cuda_capture
from worker.runners.recorded.first_steps import FirstSteps, Sizes
from worker.runners.recorded.shapes import StepShape, step_shapes
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One recording, and the tensors that its replay writes."""

    shape: StepShape
    replay: Launches
    logits: torch.Tensor  # [S, vocab] float32
    kept: torch.Tensor | None  # the features [T, width * layers], if they are wanted


class Recordings:
    """The recorded steps of one runner."""

    def __init__(self, max_draft: int = 0, max_step_tokens: int = 0, most: float = 1e-3) -> None:
        """`max_draft`: most draft tokens of a sequence; 0: steps with drafts are not recorded.

        `most`: the deviation of the logits that rounding explains.
        """
        self.max_draft = max_draft
        self.max_step_tokens = max_step_tokens
        self.most = most
        self.steps: list[RecordedStep] = []  # smallest first
        self._buffers: StepBuffers | None = None
        self._spare: Spare | None = None
        self._runner: ModelRunner | None = None
        self._record: Callable[[StepShape, torch.Tensor | None], RecordedStep] | None = None  # with adapters' slots [T]
        self.with_adapters: dict[StepShape, RecordedStep | None] = {}
        self._adapted_layout = 0
        self._slots = torch.empty(0)  # of the tokens of a step with adapters
        self._logits: torch.Tensor | None = None  # [largest S, vocab], which all recordings write to

    def warm_up(
        self, runner: ModelRunner, run: Run, max_num_seqs: int, max_model_len: int, on_progress: OnProgress
    ) -> None:
        """Record what can be recorded of `run`, the runner's forward pass over tensors, and compare the logits.

        Then run steps that are not recorded. Raises ValueError if the memory does not suffice for the largest.
        """
        expected: Expected | None = None
        try:
            most = max_deviation(self.most, runner.kv_cache)
            expected = Expected(probe_logits(runner, runner.model)[0], most)
        except Unsupported as reason:
            logger.warning("the logits of recorded steps are not compared: %s", reason)
        capture = cuda_capture(in_common=runner.kv_cache.arena is not None)
        self.record(runner, run, max_num_seqs, max_model_len, capture, on_progress)
        check_device()
        try:
            if expected is not None:
                check_equal(runner, runner.model, expected)
        except Unsupported as reason:
            logger.warning("recorded steps are not used: %s", reason)
            self.steps.clear()
        num_tokens = max(self.max_step_tokens, max_num_seqs)
        self.run_first(runner, Sizes(max_num_seqs, num_tokens, max_model_len, self.max_draft), on_progress)

    def run_first(self, runner: ModelRunner, sizes: Sizes, on_progress: OnProgress) -> None:
        """See FirstSteps. The spare block is there."""
        assert self._spare is not None
        FirstSteps(runner, self._spare, sizes, shared_heads(runner)).run(on_progress)

    def record(
        self,
        runner: ModelRunner,
        run: Run,
        max_num_seqs: int,
        max_model_len: int,
        capture: Record,
        on_progress: OnProgress,
    ) -> None:
        """Record all shapes. After a failure no more of its kind are tried, and those steps run unrecorded."""
        started = time.perf_counter()
        cache = runner.kv_cache
        tile_queries = tile_queries_for(runner)
        shapes = [
            shape
            for shape in step_shapes(max_num_seqs, self.max_draft, MAX_DRAFTED, tile_queries)
            if runner.hosted is None or not runner.hosted.streams(shape.num_tokens)
        ]
        (block,) = cache.pool.allocate(1)
        self._spare = spare = Spare(block, cache.block_size)
        num_blocks = cache.num_blocks_for(max_model_len)
        device = cache.keys[0].device
        self._buffers = StepBuffers(shapes, num_blocks, tile_queries, spare, device)
        self._runner = runner
        self._record = partial(self._recorded, runner=runner, run=run, buffers=self._buffers, capture=capture)
        self._slots = torch.zeros(max(shape.num_tokens for shape in shapes), dtype=torch.long, device=device)
        on_progress("recording graphs", RECORDING)
        span = (RECORDING, FIRST_STEP)
        failed: set[str] = set()
        for shape in counted("recording graphs", shapes, len(shapes), span, on_progress):
            if shape.kind in failed:
                continue
            try:
                self.steps.insert(0, self._record(shape, None))
            except Exception as error:  # models of any kind wait for the GPU, or there is too little memory
                failed.add(shape.kind)
                logger.warning("%s of %d tokens and less are not recorded: %s", shape.kind, shape.num_tokens, error)
        found = Counter(step.shape.kind for step in self.steps)
        kinds = ", ".join(f"{num} {kind}" for kind, num in found.items()) or "nothing"
        logger.info("recorded %s in %.1f s", kinds, time.perf_counter() - started)

    def forget(self) -> None:
        """What is recorded is void: the model has other addresses. warm_up() records it again."""
        self.steps.clear()
        self.with_adapters.clear()
        if self._runner is not None and self._spare is not None:
            self._runner.kv_cache.pool.free([self._spare.block])
        self._buffers = self._spare = self._runner = self._record = None

    @torch.inference_mode()
    def replay(
        self, rows: Seq[ScheduledSequence], order: Seq[int], sampled: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """See RecordedSteps. The tensors are valid until the next step."""
        step = self.step_for(rows)
        if step is None or self._buffers is None:
            return None
        if any(row.sequence.adapter for row in rows):
            step = self._with_adapters(step.shape, rows)
        if step is None:
            return None
        self._buffers.fill(step.shape, rows, order, sampled)
        step.replay()
        return step.logits[: sum(row.num_samples for row in rows)], step.kept

    def _with_adapters(self, shape: StepShape, rows: Seq[ScheduledSequence]) -> RecordedStep | None:
        """The step of this shape with adapters, recorded when it is first needed; None if it cannot be recorded."""
        adapters = self._runner.adapters if self._runner is not None else None
        if adapters is None or self._record is None:
            return None
        if self._adapted_layout != adapters.num_layouts:
            self._adapted_layout = adapters.num_layouts
            self.with_adapters.clear()
        slots = self._slots[: shape.num_tokens]
        if shape not in self.with_adapters:
            slots.zero_()
            try:
                self.with_adapters[shape] = self._record(shape, slots)
            except Exception as error:  # as in record()
                self.with_adapters[shape] = None
                logger.warning("%s of %d tokens with adapters are not recorded: %s", shape.kind, len(slots), error)
        slots.copy_(adapters.numbers_of(token_runs(rows), len(slots)))
        return self.with_adapters[shape]

    def step_for(self, rows: Seq[ScheduledSequence]) -> RecordedStep | None:
        """The smallest recorded step that holds the rows."""
        if self._buffers is None or any(row.start + row.num_inputs > self._buffers.max_keys for row in rows):
            return None
        tile_queries = self._buffers.tile_queries
        return next((step for step in self.steps if step.shape.holds(rows, tile_queries)), None)

    @torch.inference_mode()
    def _recorded(
        self,
        shape: StepShape,
        slots: torch.Tensor | None,
        runner: ModelRunner,
        run: Run,
        buffers: StepBuffers,
        capture: Record,
    ) -> RecordedStep:
        """`slots`: of the adapters of its tokens, which it reads from this tensor; None for a step of the base."""
        inputs, positions, selected, tensors = buffers.views(shape)
        attention = runner.recorded_attention(tensors, shape.num_queries)
        buffers.fill(shape, [], [], None)

        def compute() -> None:
            with adapted_by(runner.adapters, slots), counted_by(runner.hosted, tensors.query_starts[-1:]):
                logits = run(inputs, positions, attention, selected)
            if self._logits is None:  # in the first of all runs, which is not recorded yet
                self._logits = runner.kv_cache.scratch((buffers.num_logits, logits.shape[1]), logits.device)
            self._logits[: len(logits)].copy_(logits)

        replay = capture(compute)
        assert self._logits is not None
        return RecordedStep(shape, replay, self._logits[: shape.num_logits], runner.kept)


def adapted_by(adapters: StepAdapters | None, slots: torch.Tensor | None) -> AbstractContextManager[None]:
    """Within this, a pass computes its tokens with the adapters in these slots [T]."""
    if adapters is None or slots is None:
        return nullcontext()
    return adapters.current.during(adapters.of_index(slots))


def counted_by(hosted: HostedExperts | None, num_tokens: torch.Tensor) -> AbstractContextManager[None]:
    """Within this, experts in host memory compute the first tokens of a pass only, as many as `num_tokens` [1] says."""
    return nullcontext() if hosted is None else hosted.counted(num_tokens)


def tile_queries_for(runner: ModelRunner) -> int:
    """Queries of a tile of the attention kernel, whose rows are the heads that share keys."""
    return tile_queries(shared_heads(runner)[-1], runner.kv_cache.keys[0].dtype)


def shared_heads(runner: ModelRunner) -> range:
    """From the least to the most heads that share a KV head, over the layers."""
    num_heads = largest(runner.model.config.get_text_config(), "num_attention_heads") or 1
    shared = [max(1, num_heads // shape.num_kv_heads) for shape in runner.kv_cache.shapes]
    return range(min(shared), max(shared) + 1)
