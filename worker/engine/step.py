"""One forward pass and its draws, with the blame put where it belongs when something breaks."""

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from common.errors import OmniError
from common.wire import Failed, TokenLogprob
from worker.device import check_device
from worker.runners.base import Runner
from worker.sampling.masks import MaskFiller
from worker.sampling.sampler import UNDECIDED, sample
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did for one row: the tokens drawn (none while a prompt is under way), or why it failed."""

    row: ScheduledSequence
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    failure: Failed | None = None
    is_undecided: bool = False  # the last token has to be computed and drawn again


def run_step(runner: Runner, rows: Seq[ScheduledSequence], mask_filler: MaskFiller) -> list[Outcome]:
    """Run the rows together; if that breaks, each by itself, so that only the culprit fails.

    Raises RuntimeError when the GPU itself is lost: no row is to blame then, and the process must end.
    """
    try:
        return forward_and_sample(runner, rows, mask_filler)
    except Exception as error:  # whatever one row can provoke must not end the others
        failure = failure_of(error)
        if len(rows) == 1:
            logger.exception("request %s failed in its step", rows[0].sequence.request_id)
        else:
            logger.warning("a step of %d rows failed (%s); running them apart", len(rows), type(error).__name__)
    check_device()  # out here, where the error no longer holds the step's tensors
    if len(rows) == 1:
        return [Outcome(rows[0], failure=failure)]
    return [outcome for row in rows for outcome in run_step(runner, [row], mask_filler)]


@torch.inference_mode()
def forward_and_sample(runner: Runner, rows: Seq[ScheduledSequence], mask_filler: MaskFiller) -> list[Outcome]:
    """All rows in one batch."""
    sampling = [row for row in rows if row.samples]
    sequences = [row.sequence for row in sampling for _ in range(1 + len(row.sequence.draft))]
    masks = mask_filler.start(sequences)
    logits = runner.forward(rows)
    if not len(logits):
        return [Outcome(row) for row in rows]
    positions = [
        row.sequence.num_completion_tokens + ahead for row in sampling for ahead in range(1 + len(row.sequence.draft))
    ]
    sampled = sample(logits, sequences, positions, masks)
    outcomes, at = [], 0
    for row in rows:
        num = 1 + len(row.sequence.draft) if row.samples else 0
        outcomes.append(verify(row, sampled.token_ids[at : at + num], sampled.logprobs[at : at + num]))
        at += num
    return outcomes


def verify(row: ScheduledSequence, drawn: list[int | None], logprobs: list[TokenLogprob | None]) -> Outcome:
    """Keep the draws as long as each was made after the tokens that were really drawn before it."""
    kept: list[int] = []
    for at, token_id in enumerate(drawn):
        if token_id is None:
            return Outcome(row, failure=Failed("internal_error", "The model gave no usable probabilities."))
        if token_id == UNDECIDED:
            return Outcome(row, is_undecided=True)
        kept.append(token_id)
        if at >= len(row.sequence.draft) or row.sequence.draft[at] != token_id:
            break
    return Outcome(row, tuple(kept), tuple(item for item in logprobs[: len(kept)] if item is not None))


def failure_of(error: Exception) -> Failed:
    if isinstance(error, OmniError):
        return Failed(error.code, error.message)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return Failed(
            "out_of_memory", str(error) if str(error).startswith("CUDA out of memory") else "CUDA out of memory"
        )
    if isinstance(error, MemoryError):
        return Failed("out_of_memory", "Out of memory")
    return Failed("internal_error", f"The model failed on this request: {type(error).__name__}.")
