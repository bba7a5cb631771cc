"""Chooses who drafts and how many tokens, and asks a guesser for them.

A draft is verified in the same forward pass, and random numbers belong to positions: speculation changes how many
tokens a step gives. Which ones it leaves alone in float32; elsewhere a step of another size rounds differently.
"""

import logging
import time
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from worker.drafting.lengths import Lengths
from worker.progress import OnProgress
from worker.runners.base import Runner
from worker.runners.limits import MAX_DRAFTED, Limits
from worker.sampling.logit_rules import has_rules
from worker.state.block_pool import Moves
from worker.state.scheduled_sequence import IsLive, ScheduledSequence
from worker.state.sequence import Sequence

logger = logging.getLogger(__name__)


class Guesser(Protocol):
    """Guesses the next tokens of sequences. It may keep state of its own for each."""

    max_guesses: int  # most tokens for one sequence
    feature_layers: tuple[int, ...]  # layers of the model whose hidden states it reads from the runner
    reads_prompts: bool  # a first guess for a sequence takes longer than the next ones
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

    def resize(self, num_blocks: int, moves: Moves) -> None:
        """The model's KV cache has so many blocks from now on, and these are in other places."""


class Drafter:
    """Sets the `draft` of decoding sequences. A guesser that fails is asked no more, and the answers go on."""

    def __init__(self, guesser: Guesser | None, num_ahead: int, num_budget: int = MAX_DRAFTED) -> None:
        """`num_ahead`: most tokens for a sequence; `num_budget`: for all of a step."""
        self.guesser = guesser  # None: nothing is drafted
        self.num_ahead = min(num_ahead, guesser.max_guesses) if guesser is not None else 0
        self.lengths = Lengths(num_budget, introduces=guesser is not None and guesser.reads_prompts)
        self.num_drafts = 0  # guesses verified so far
        self.num_drafted = 0  # tokens verified so far
        self.num_accepted = 0  # of these, tokens that proved right
        self._known: set[Sequence] = set()  # that the guesser may hold state of
        self._wanted: set[Sequence] = set()  # that guesses were wanted for in the last step
        self._drafted_at = 0.0

    @property
    def is_on(self) -> bool:
        return self.guesser is not None

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Guesser."""
        if self.guesser is None:
            return
        try:
            self.guesser.warm_up(max_num_seqs, max_model_len, on_progress)
        except Exception as error:  # drafts are dispensable
            self._give_up(error)

    def draft(self, running: Iterable[Sequence], max_model_len: int, *, has_others: bool = True) -> None:
        """Oldest first. Sequences whose logits depend on counts or grammars get no draft.

        `has_others`: not all sequences are flex, which get no draft then either.
        """
        if self.guesser is None:
            return
        running = list(running)
        for sequence in self._known.difference(running):
            self.forget(sequence)
        for sequence in running:
            sequence.draft = []
        decoding = [seq for seq in running if seq.is_decoding and not (seq.is_flex and has_others)]
        rooms = [self._room(sequence, max_model_len) for sequence in decoding]
        lengths = self.lengths.choose(decoding, rooms)
        wanted = [(sequence, num) for sequence, num in zip(decoding, lengths, strict=True) if num]
        started = time.perf_counter()
        try:
            guesses = self.guesser.guess(wanted) if wanted else []
        except Exception as error:  # drafts are dispensable
            self._give_up(error)
            return
        for (sequence, num), guess in zip(wanted, guesses, strict=True):
            sequence.draft = guess[:num]
        self._drafted_at = time.perf_counter()
        self._note_guesses(wanted, self._drafted_at - started)

    def verified(self, row: ScheduledSequence, num_accepted: int) -> None:
        """`num_accepted` of the row's samples are tokens now; all but the last were drafted."""
        num_drafted = len(row.sequence.draft)
        if num_drafted:
            self.num_drafts += 1
            self.num_drafted += num_drafted
            self.num_accepted += num_accepted - 1
            if row.sequence.finish_reason is None:  # else the rest of the draft was not looked at
                self.lengths.note_verified(row.sequence, num_drafted, num_accepted - 1)

    def note(self, rows: Seq[ScheduledSequence], is_live: IsLive, *, has_failed: bool) -> None:
        """A step of these rows is committed."""
        if self.guesser is None:
            return
        if rows and not has_failed and all(row.samples and row.num_tokens == 1 for row in rows):
            num_tokens = sum(row.num_inputs for row in rows)
            self.lengths.note_step(len(rows), num_tokens, time.perf_counter() - self._drafted_at)
        going = [row for row in rows if is_live(row)]
        if has_failed:  # they ran one by one
            for row in going:
                self.forget(row.sequence)
        else:
            self._note(going)
        for row in rows:
            row.sequence.draft = []

    def forget(self, sequence: Sequence) -> None:
        """The sequence runs no more."""
        self._known.discard(sequence)
        self._wanted.discard(sequence)
        self.lengths.forget(sequence)
        if self.guesser is not None:
            self.guesser.forget(sequence)

    def resize(self, num_blocks: int, moves: Moves) -> None:
        """See Guesser."""
        try:
            if self.guesser is not None:
                self.guesser.resize(num_blocks, moves)
        except Exception as error:  # drafts are dispensable
            self._give_up(error)

    def _room(self, sequence: Sequence, max_model_len: int) -> int:
        """The most tokens that a decoding sequence may draft."""
        if has_rules(sequence):
            return 0
        num_left = sequence.sampling.max_tokens - sequence.num_completion_tokens
        return max(0, min(self.num_ahead, num_left - 1, max_model_len - sequence.num_tokens - 1))

    def _note_guesses(self, wanted: Seq[tuple[Sequence, int]], seconds: float) -> None:
        sequences = {sequence for sequence, _ in wanted}
        if wanted:
            self._known |= sequences
            is_usual = sequences <= self._wanted
            self.lengths.note_guess(len(wanted), max(num for _, num in wanted), seconds, is_usual=is_usual)
        self._wanted = sequences

    def _note(self, rows: Seq[ScheduledSequence]) -> None:
        assert self.guesser is not None
        self._known.update(row.sequence for row in rows)
        try:
            self.guesser.note(rows)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.error("no tokens are drafted any more: %s failed", type(self.guesser).__name__, exc_info=error)
        self.guesser = None
        self._known.clear()
