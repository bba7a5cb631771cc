"""One step's batch: forward pass, samples, and the outcome of each row. A failing row fails alone."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from common.errors import JobFailed, OmniError, OutOfMemory
from common.wire import Failed, TokenLogprob
from worker.device import check_device
from worker.engine.costs import work_of
from worker.runners.base import Runner
from worker.sampling.masks import MaskFiller, Masks
from worker.sampling.sampler import UNDECIDED, PendingSamples, Sampled, sample
from worker.state.scheduled_sequence import IsLive, ScheduledSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row's result: the tokens sampled (none while its prompt is being computed), or its failure."""

    row: ScheduledSequence
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    failure: Failed | None = None
    is_undecided: bool = False  # its last token has to be computed and sampled again


class Step:
    """A batch from its schedule to its outcomes: forward(), sample(), outcomes(). An error is kept in `failure`."""

    def __init__(self, batch: Seq[ScheduledSequence], began: float = 0.0) -> None:
        """`began`: when it was scheduled."""
        self.batch = batch
        self.began = began
        self.load, self.works = work_of(batch)
        self.failure: Failed | None = None
        self._is_alone = True  # one row, and no other step in flight, so that a failure is the row's own
        # of each sample [S]: its sequence, and the number of draft tokens before it
        self._places = [(row.sequence, ahead) for row in batch for ahead in range(row.num_samples)]
        self._sequences = [sequence for sequence, _ in self._places]
        self._masks: Masks = None
        self._logits: torch.Tensor | None = None  # [S, vocab] float32, until they are sampled
        self._samples: PendingSamples | None = None

    @property
    def sampled(self) -> torch.Tensor | None:
        """Sampled token ids [S] on the device; None if nothing was sampled."""
        return self._samples.token_ids if self._samples is not None else None

    @torch.inference_mode()
    def forward(self, runner: Runner, mask_filler: MaskFiller, in_flight: "Step | None") -> None:
        """Launch the forward pass; a GPU runs it while Python goes on. Pending tokens are samples of `in_flight`."""
        if not self.batch:
            return
        self._is_alone = len(self.batch) == 1 and in_flight is None
        try:
            if in_flight is None:  # the grammars are up to date: their masks are filled during the forward pass
                self._masks = mask_filler.start(self._sequences)
            self._logits = runner.forward(self.batch, in_flight.sampled if in_flight is not None else None)
        except Exception as error:  # an error in one row must not end the others
            self._fail(error)

    @torch.inference_mode()
    def sample(self, mask_filler: MaskFiller, is_live: IsLive, *, may_defer: bool) -> None:
        """Sample from the logits, unless no row is live.

        `may_defer`: the step stays in flight. A row is left undecided rather than waited for; a step without samples
        is sampled as well, so that the chunks of a long prompt are waited for and do not pile up on the device.
        """
        logits, self._logits = self._logits, None
        is_needed = bool(self._sequences) or may_defer
        if logits is None or not is_needed or not any(map(is_live, self.batch)):
            return
        positions = [sequence.num_completion_tokens + ahead for sequence, ahead in self._places]
        try:
            masks = self._masks or mask_filler.start(self._sequences)
            self._samples = sample(logits, self._sequences, positions, masks, may_defer=may_defer)
        except Exception as error:  # see forward()
            self._fail(error)

    def leave_pending(self, is_live: IsLive) -> list[ScheduledSequence]:
        """Make the samples of live rows their sequences' pending tokens; returns the live rows. They have no drafts."""
        for index, row in enumerate(row for row in self.batch if row.samples):
            if is_live(row):
                row.sequence.pending = index
        return [row for row in self.batch if is_live(row)]

    def outcomes(self, runner: Runner, mask_filler: MaskFiller, is_live: IsLive) -> Iterator[Outcome]:
        """Wait for the samples. After a failure compute each live row alone, so that only the culprit fails.

        Raises RuntimeError when the GPU is lost: no row is to blame then, and the process must end.
        """
        if self.failure is None:
            yield from self._read()
            return
        check_device()  # out here, where the error no longer holds the step's tensors
        for row in filter(is_live, self.batch):
            if self._is_alone:
                yield Outcome(row, failure=self.failure)
                return
            alone = Step([row])
            alone.forward(runner, mask_filler, None)
            alone.sample(mask_filler, is_live, may_defer=False)
            yield from alone.outcomes(runner, mask_filler, is_live)

    def _read(self) -> Iterator[Outcome]:
        samples = self._samples.read() if self._samples is not None else Sampled([], [])
        at = 0
        for row in self.batch:
            stop = at + row.num_samples
            yield verify(row, samples.token_ids[at:stop], samples.logprobs[at:stop])
            at = stop

    def _fail(self, error: Exception) -> None:
        self.failure = failure_of(error)
        if self._is_alone:
            logger.error("request %s failed in its step", self.batch[0].sequence.request_id, exc_info=error)
        else:
            logger.warning("a step of %d rows failed (%s); running them alone", len(self.batch), type(error).__name__)


def verify(row: ScheduledSequence, sampled: list[int | None], logprobs: list[TokenLogprob | None]) -> Outcome:
    """Keep the samples up to the first that differs from the draft."""
    kept: list[int] = []
    for at, token_id in enumerate(sampled):
        if token_id is None:
            return Outcome(row, failure=Failed(JobFailed.code, "The model gave no usable probabilities."))
        if token_id == UNDECIDED:
            return Outcome(row, is_undecided=True)
        kept.append(token_id)
        if at >= len(row.sequence.draft) or row.sequence.draft[at] != token_id:
            break
    return Outcome(row, tuple(kept), tuple(item for item in logprobs[: len(kept)] if item is not None))


def failure_of(error: Exception) -> Failed:
    """The event for an error in a step."""
    if isinstance(error, OmniError):
        return Failed(error.code, error.message)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return Failed(
            OutOfMemory.code, str(error) if str(error).startswith("CUDA out of memory") else "CUDA out of memory"
        )
    if isinstance(error, MemoryError):
        return Failed(OutOfMemory.code, "Out of memory")
    return Failed(JobFailed.code, f"The model failed on this request: {type(error).__name__}.")
