"""Steps that overlap: the GPU is given the next forward pass before Python reads what the last one led to.

    step N + 1:  launch its forward pass -> read and book the tokens of N -> draw N + 1 -> say what N brought

So booking, publishing and scheduling cost the GPU nothing while they take less than a forward pass. A sequence of both
steps finds its newest token on the device; one that ended with N has computed a token too many, which is passed over.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from worker.engine.step import Outcome, verify
from worker.runners.base import Runner
from worker.sampling.masks import MaskFiller
from worker.sampling.sampler import Draws, draw_tokens
from worker.state.scheduled_sequence import ScheduledSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step whose draws are still to be read. Its rows have no drafts."""

    rows: Seq[ScheduledSequence]
    draws: Draws  # of the rows that sample, in order

    def outcomes(self) -> list[Outcome]:
        """Waits for the GPU to come as far. Raises RuntimeError when it is lost.

        Also where nothing was drawn: else a long prompt's chunks would pile up there.
        """
        sampled = self.draws.read()
        outcomes, at = [], 0
        for row in self.rows:
            stop = at + row.samples
            outcomes.append(verify(row, sampled.token_ids[at:stop], sampled.logprobs[at:stop]))
            at = stop
        return outcomes


@torch.inference_mode()
def launch(runner: Runner, rows: Seq[ScheduledSequence], before: InFlight | None) -> torch.Tensor | None:
    """Logits of the rows that sample; None if their pass could not be started."""
    try:
        return runner.forward(rows, before.draws.token_ids if before is not None else None)
    except Exception as error:  # the rows are run again, and then each has to answer for itself
        logger.warning("a step of %d rows could not be started (%s)", len(rows), error)
        return None


@torch.inference_mode()
def draw_ahead(
    logits: torch.Tensor,
    rows: Seq[ScheduledSequence],
    goes_on: Callable[[ScheduledSequence], bool],
    mask_filler: MaskFiller,
) -> InFlight | None:
    """Draw for the rows, and mark the next tokens of those that go on as pending; None if that failed."""
    sampling = [row for row in rows if row.samples]
    sequences = [row.sequence for row in sampling]
    try:
        masks = mask_filler.start(sequences)
        positions = [sequence.num_completion_tokens for sequence in sequences]
        draws = draw_tokens(logits, sequences, positions, masks, may_defer=True)
    except Exception as error:  # as in launch()
        logger.warning("the draws of %d rows failed (%s)", len(sequences), error)
        return None
    for at, row in enumerate(sampling):
        if goes_on(row):
            row.sequence.token_ids.append(-1 - at)
    return InFlight(rows, draws)
