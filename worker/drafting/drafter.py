"""Chooses who drafts and how many tokens, and asks a guesser for them.

A draft is verified in the same forward pass, and random numbers belong to positions: speculation changes how many
tokens a step gives, never which.
"""

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from worker.progress import OnProgress
from worker.runners.base import Runner
from worker.runners.limits import MAX_DRAFTED, Limits
from worker.sampling.logit_rules import has_rules
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

logger = logging.getLogger(__name__)


class Guesser(Protocol):
    """Guesses the next tokens of sequences. It may keep state of its own for each."""

    max_guesses: int  # most tokens for one sequence
    feature_layers: tuple[int, ...]  # layers of the model whose hidden states it reads from the runner
    kv_bytes_per_token: int  # of a KV cache of its own, with as many blocks as the model's; 0 for none

    def attach(self, runner: Runner, limits: Limits) -> None:
        """The model's runner and limits are known now: get ready, before either is warmed up."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Prepare for steps of this size."""

    def guess(self, wanted: Seq[tuple[Sequence, int]]) -> list[list[int]]:
        """For each sequence, which is decoding, at most so many next tokens; none where it has no guess."""

    def note(self, rows: Seq[ScheduledSequence]) -> None:
        """A step is committed. `rows`: all of its rows, in order, that have not ended; each still has its draft.

        A row's inputs were `row.num_inputs` tokens from `row.start`; `row.sequence.num_computed` of the sequence's
        tokens are right. Rows of a failed step are forgotten instead.
        """

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended or lost its KV blocks. It may be unknown, and may come back."""


class Drafter:
    """Sets the `draft` of decoding sequences. A guesser that fails is asked no more, and the answers go on."""

    def __init__(self, guesser: Guesser | None, num_ahead: int) -> None:
        self.guesser = guesser  # None: nothing is drafted
        self.num_ahead = min(num_ahead, guesser.max_guesses) if guesser is not None else 0
        self.num_drafted = 0  # tokens verified so far
        self.num_accepted = 0  # of these, tokens that proved right
        self._known: set[Sequence] = set()  # that the guesser may hold state of

    @property
    def is_on(self) -> bool:
        return self.guesser is not None

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Guesser."""
        if self.guesser is not None:
            self.guesser.warm_up(max_num_seqs, max_model_len, on_progress)

    def draft(self, running: Iterable[Sequence], max_model_len: int) -> None:
        """Oldest first. Sequences whose logits depend on counts or grammars get no draft."""
        if self.guesser is None:
            return
        running = list(running)
        for sequence in self._known.difference(running):
            self.forget(sequence)
        rooms = self._rooms(running, max_model_len)
        wanted = [(sequence, room) for sequence, room in zip(running, rooms, strict=True) if room]
        for sequence in running:
            sequence.draft = []
        if not wanted:
            return
        self._known.update(sequence for sequence, _ in wanted)
        try:
            guesses = self.guesser.guess(wanted)
        except Exception as error:  # drafts are dispensable
            self._give_up(error)
            return
        for (sequence, room), guess in zip(wanted, guesses, strict=True):
            sequence.draft = guess[:room]

    def verified(self, row: ScheduledSequence, num_accepted: int) -> None:
        """`num_accepted` of the row's samples are tokens now; all but the last were drafted."""
        self.num_drafted += len(row.sequence.draft)
        self.num_accepted += max(0, num_accepted - 1)

    def note(self, rows: Seq[ScheduledSequence], *, has_failed: bool) -> None:
        """A step is committed, and these of its rows have not ended."""
        if self.guesser is None:
            return
        if has_failed:  # its rows ran one by one
            for row in rows:
                self.forget(row.sequence)
        else:
            self._known.update(row.sequence for row in rows)
            try:
                self.guesser.note(rows)
            except Exception as error:
                self._give_up(error)
        for row in rows:
            row.sequence.draft = []

    def forget(self, sequence: Sequence) -> None:
        """The sequence runs no more."""
        self._known.discard(sequence)
        if self.guesser is not None:
            self.guesser.forget(sequence)

    def _rooms(self, running: Seq[Sequence], max_model_len: int) -> list[int]:
        """The most tokens that each sequence may draft."""
        budget = MAX_DRAFTED
        rooms = []
        for sequence in running:
            room = min(
                self.num_ahead,
                budget,
                sequence.sampling.max_tokens - sequence.num_completion_tokens - 1,
                max_model_len - sequence.num_tokens - 1,
            )
            rooms.append(room if room > 0 and sequence.is_decoding and not has_rules(sequence) else 0)
            budget -= rooms[-1]
        return rooms

    def _give_up(self, error: Exception) -> None:
        logger.error("no tokens are drafted any more: %s failed", type(self.guesser).__name__, exc_info=error)
        self.guesser = None
        self._known.clear()
