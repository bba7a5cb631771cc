"""Runs the steps that no recording holds once, before anybody waits for one.

Each form of a kernel is compiled at its first launch, in 0.5 to 10 s. The arguments that change from step to step make
no forms of their own (do_not_specialize of the kernels), so that a dozen steps launch all there are: tiles for short
and for long prompt chunks and single tokens, each with keys that one program reads, that few share, and that many do.
The largest steps come first. The KV cache is allocated by then, so memory that suffices for them suffices for any.
"""

import logging
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial

import torch

from common.wire import SamplingParams
from worker.device import check_device
from worker.kernels.gpu.paged_attention import FEW_ROWS
from worker.kernels.gpu.split_keys import FEW_SPLITS, MIN_KEYS
from worker.kernels.tuning import launch_products
from worker.progress import FIRST_STEP, READY, OnProgress, counted
from worker.runners.base import ModelRunner, kernel_order
from worker.runners.limits import MAX_DRAFTED
from worker.runners.probe import probe_sequence
from worker.runners.recorded.buffers import Spare
from worker.sampling.sampler import sample
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)

MANY_ALTERNATIVES = 20  # logprobs reported with a token, at most
WAYS_TO_SAMPLE = (
    SamplingParams(max_tokens=1, seed=0, temperature=0.0, logprobs=MANY_ALTERNATIVES),
    SamplingParams(
        max_tokens=1, seed=0, top_p=0.9, top_k=50, min_p=0.01, logit_bias=((0, 1.0),), logprobs=MANY_ALTERNATIVES
    ),  # a rule: the logits are copied
)
TOO_LARGE = (
    "the largest step does not fit into the GPU's memory beside weights and KV cache; lower "
    "OMNI_GPU_MEMORY_UTILIZATION (which leaves more for steps), OMNI_MAX_NUM_SEQS or OMNI_MAX_MODEL_LEN."
)


@dataclass(frozen=True, slots=True)
class StepPart:
    """A sequence's part of a step."""

    start: int  # tokens before it
    num_tokens: int
    num_drafted: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The most that a step or a sequence has."""

    num_seqs: int
    num_tokens: int
    model_len: int
    draft: int  # of a sequence

    def steps(self, shared: range) -> Iterator[list[StepPart]]:
        """The largest steps, then those that launch the forms of kernels. `shared`: see chunk_lengths()."""
        whole, rest = divmod(self.num_tokens, self.model_len)
        yield ([StepPart(0, self.model_len)] * whole + [StepPart(0, rest)] * (rest > 0))[: self.num_seqs]
        num_chunks = max(1, min(self.num_seqs, self.num_tokens // 2))
        yield [StepPart(0, min(self.num_tokens // num_chunks, self.model_len))] * num_chunks
        each = min(self.draft, max(1, MAX_DRAFTED // self.num_seqs), self.model_len - 1)
        num_drafting = min(self.num_seqs, MAX_DRAFTED // each) if each else 0
        decodes = [StepPart(0, 1)] * (self.num_seqs - num_drafting) + [StepPart(0, 1, each)] * num_drafting
        yield [StepPart(self.model_len - 1, 1), *decodes[1:]]
        for start, num_tokens in chunk_forms(shared, self.model_len):
            yield [StepPart(start, 1), StepPart(start, num_tokens)]


def chunk_forms(shared: range, model_len: int) -> list[tuple[int, int]]:
    """(tokens before, tokens) of chunks that, with a single token beside each, launch all forms of attention."""
    few, many = 4 * MIN_KEYS, 2 * FEW_SPLITS * MIN_KEYS  # keys for some programs, and for more than FEW_SPLITS
    lengths = sorted({min(length, model_len) for length in chunk_lengths(shared)})
    return [
        (start, num_tokens)
        for num_tokens in lengths
        for start in sorted({min(start, model_len - num_tokens) for start in (0, few, many, model_len)})
    ]


def chunk_lengths(shared: range) -> tuple[int, int]:
    """Of a chunk with tiles of few rows in every layer, and of one with tiles of many rows in every layer.

    `shared`: from the least to the most heads that share a KV head. Two at least: a single token is no chunk.
    """
    return max(2, FEW_ROWS // shared[-1]), max(2, FEW_ROWS // shared[0] + 1)


class FirstSteps:
    """The first steps of one runner, over a block that no sequence has."""

    def __init__(self, runner: ModelRunner, spare: Spare, sizes: Sizes, shared: range) -> None:
        self.runner = runner
        self.spare = spare
        self.sizes = sizes
        self.shared = shared

    @torch.inference_mode()
    def run(self, on_progress: OnProgress) -> None:
        """Raises ValueError if the memory does not suffice for one of them."""
        started = time.perf_counter()
        on_progress("first steps", FIRST_STEP)
        tasks = [partial(self._step, parts) for parts in self.sizes.steps(self.shared)]
        tasks.append(partial(launch_products, self.runner.linears))
        try:
            for task in counted("first steps", tasks, len(tasks), (FIRST_STEP, READY), on_progress):
                self._try(task)
        finally:
            self.runner.features = self.runner.kept = None
            self.runner.kv_cache.wipe([self.spare.block])
        check_device()  # frees what the largest steps took
        logger.info("ran %d first steps in %.1f s", len(tasks), time.perf_counter() - started)

    def _try(self, task: Callable[[], None]) -> None:
        try:
            task()
        except torch.OutOfMemoryError as error:
            raise ValueError(TOO_LARGE) from error
        except Exception as error:  # models of any kind run here; such a step fails alone when it is asked for
            logger.error("a first step fails", exc_info=error)
            check_device()

    def _step(self, parts: Seq[StepPart]) -> None:
        """A step without a recording, and its samples in each way."""
        rows = sorted(map(self._row, parts), key=kernel_order)
        logits = self.runner.unrecorded(rows, range(len(rows)), None)
        sequences = [row.sequence for row in rows for _ in range(row.num_samples)]
        for sampling in WAYS_TO_SAMPLE:
            copies = [replace(sequence, sampling=sampling) for sequence in sequences]
            sample(logits, copies, [0] * len(copies), may_defer=True).read()

    def _row(self, part: StepPart) -> ScheduledSequence:
        """All of its blocks are the spare one."""
        num_tokens = part.start + part.num_tokens
        sequence = probe_sequence([1] * num_tokens)
        sequence.block_ids = [self.spare.block] * -(-(num_tokens + part.num_drafted) // self.spare.block_size)
        sequence.draft = [1] * part.num_drafted
        sequence.begin_at(part.start)
        return ScheduledSequence(sequence, part.num_tokens)
