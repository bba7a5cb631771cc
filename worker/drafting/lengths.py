"""How many tokens to draft for each sequence: as many as give the most tokens per second, by what was measured."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.state.sequence import Sequence

Floats = NDArray[np.float64]

WEIGHT = 0.25  # of a new measurement in a size's mean
RISE = 0.05  # the same for guesses that took longer than usual: prompts are read at times
DRIFT = 0.2  # power of what moved one size's mean, for all others: contexts grow, and other programs come and go
OUTLIER = 3.0  # times the mean, beyond which a measurement counts no further
USUAL_CHANCE, USUAL_TRIALS = 0.8, 4.0  # of a guess that is right, before anything is known; as if seen so often
MEMORY = 0.9  # of a sequence's acceptance, per verified draft
COMMON_MEMORY = 0.98  # of the acceptance of all
FADING = 0.99  # of a sequence's acceptance, per step without a draft
PROBE_SHARE = 0.02  # of the time, for drafts that are not expected to pay
PROBE_DRAFTS = 4  # verified drafts of one probe
PROBE_STEPS = 64  # most steps of one: a sequence may get no guesses
MAX_ALLOWANCE_S = 1.0  # saved up for probes, else an hour without one would be followed by a minute of them
BASELINE_STEPS = 128  # after so many steps with drafts, one without is measured


class Measured:
    """Seconds of something by its size, never falling with it; flat beyond the sizes that were measured."""

    def __init__(self, rise: float = WEIGHT) -> None:
        """`rise`: weight of a measurement above the mean."""
        self._rise = rise
        self._sizes: list[int] = []
        self._seconds: list[float] = []

    def note(self, size: int, seconds: float) -> None:
        size = rounded(size)
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes) or self._sizes[at] != size:
            self._sizes.insert(at, size)
            self._seconds.insert(at, seconds)
            return
        change = min(seconds / self._seconds[at], OUTLIER) - 1
        moved = 1 + (self._rise if change > 0 else WEIGHT) * change
        own = self._seconds[at] * moved
        self._seconds = [each * moved**DRIFT for each in self._seconds]  # so far as `own` comes back, they do
        self._seconds[at] = own

    def knows(self, size: int) -> bool:
        """A size not much smaller was measured."""
        at = bisect_right(self._sizes, rounded(size))
        return at > 0 and 2 * self._sizes[at - 1] >= size

    def seconds(self, sizes: NDArray[np.int64]) -> Floats:
        """Zero while nothing is known."""
        if not self._sizes:
            return np.zeros(len(sizes))
        return np.interp(sizes, self._sizes, np.maximum.accumulate(self._seconds))


def rounded(size: int) -> int:
    """Exact up to 16, then to a sixteenth, so that sizes which cost the same share their measurements."""
    step = 1 << max(0, size.bit_length() - 5)
    return -(-size // step) * step


@dataclass(slots=True)
class Acceptance:
    """How many guesses proved right of those that were looked at; both fade with time."""

    accepted: float = 0.0
    trials: float = 0.0

    def note(self, num_drafted: int, num_accepted: int, memory: float) -> None:
        """Guesses after the first wrong one tell nothing."""
        self.fade(memory)
        self.accepted += num_accepted
        self.trials += min(num_drafted, num_accepted + 1)

    def fade(self, memory: float) -> None:
        self.accepted *= memory
        self.trials *= memory

    def chance(self, otherwise: float) -> float:
        """That a guess is right if all before it were."""
        return (self.accepted + USUAL_TRIALS * otherwise) / (self.trials + USUAL_TRIALS)


@dataclass(slots=True)
class Probe:
    """Drafts of one sequence that are made to measure. `allowance_s` grows with time and pays for them."""

    allowance_s: float = 0.0
    sequence: Sequence | None = None
    last: Sequence | None = None  # of the probe before
    num_verified: int = 0
    num_steps: int = 0

    def choose(self, sequences: Seq[Sequence]) -> Sequence | None:
        """The sequence to draft for, if any: the shortest, which has the least to catch up with."""
        if self.num_verified >= PROBE_DRAFTS or self.num_steps >= PROBE_STEPS:
            self.stop()
        if self.sequence is None and self.allowance_s > 0:
            self.sequence = min(sequences, key=lambda sequence: (sequence is self.last, sequence.num_tokens))
        self.num_steps += self.sequence is not None
        return self.sequence

    def stop(self) -> None:
        self.sequence, self.last = None, self.sequence or self.last
        self.num_verified = self.num_steps = 0


@dataclass(slots=True)
class Lengths:
    """Chooses the lengths of drafts. `num_budget`: most drafted tokens of a step."""

    num_budget: int
    introduces: bool = True  # few new sequences at once, for guesses that first read a prompt
    step: Measured = field(default_factory=Measured)  # by tokens
    guess: Measured = field(default_factory=lambda: Measured(RISE))  # for each token ahead, by sequences
    _common: Acceptance = field(default_factory=Acceptance)
    _own: dict[Sequence, Acceptance] = field(default_factory=dict)
    _probe: Probe = field(default_factory=Probe)
    _drafting: set[Sequence] = field(default_factory=set)  # that had drafts in the last step with drafts
    _is_usual: bool = True  # they had them in the step before too
    _num_steps: int = 0  # with drafts that pay

    def choose(self, sequences: Seq[Sequence], rooms: Seq[int]) -> list[int]:
        """Tokens to draft for each decoding sequence. `rooms`: the most; 0 where nothing can be drafted."""
        if not any(rooms) or not self.step.knows(len(sequences)):
            return [0] * len(rooms)
        common = self._common.chance(USUAL_CHANCE)
        chances = []
        for sequence in sequences:
            own = self._own.setdefault(sequence, Acceptance())
            own.fade(FADING)
            chances.append(own.chance(common))
        num_possible = min(self.num_budget, sum(rooms))
        step_s = self.step.seconds(np.arange(len(sequences), len(sequences) + num_possible + 1))
        guess_s = float(self.guess.seconds(np.array([sum(room > 0 for room in rooms)]))[0])
        lengths = best_lengths(chances, rooms, step_s, guess_s) if self.guess.knows(1) else []
        if not any(lengths):
            self._drafting.clear()
            chosen = self._probe.choose([sequence for sequence, room in zip(sequences, rooms, strict=True) if room])
            return [room if sequence is chosen else 0 for sequence, room in zip(sequences, rooms, strict=True)]
        self._probe.stop()
        self._num_steps += 1
        if self._num_steps % BASELINE_STEPS == 0:
            return [0] * len(rooms)
        return self._introduced(sequences, lengths) if self.introduces else lengths

    def note_step(self, num_seqs: int, num_tokens: int, seconds: float) -> None:
        """A step of so many sequences' single tokens and their drafts took so long."""
        self._probe.allowance_s = min(MAX_ALLOWANCE_S, self._probe.allowance_s + PROBE_SHARE * seconds)
        if self._probe.sequence is not None:
            self._probe.allowance_s -= max(0.0, seconds - float(self.step.seconds(np.array([num_seqs]))[0]))
        self.step.note(num_tokens, seconds)

    def note_guess(self, num_sequences: int, num_ahead: int, seconds: float, *, is_usual: bool) -> None:
        """Guesses took so long. `is_usual`: the same sequences wanted some in the step before."""
        self._is_usual = is_usual
        if is_usual or not self.introduces:
            self.guess.note(num_sequences, seconds / num_ahead)
        if self._probe.sequence is not None:
            self._probe.allowance_s -= seconds

    def note_verified(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self._common.note(num_drafted, num_accepted, COMMON_MEMORY)
        self._own.setdefault(sequence, Acceptance()).note(num_drafted, num_accepted, MEMORY)
        if sequence is self._probe.sequence:
            self._probe.num_verified += 1

    def forget(self, sequence: Sequence) -> None:
        self._own.pop(sequence, None)
        self._drafting.discard(sequence)
        if sequence is self._probe.sequence:
            self._probe.stop()

    def _introduced(self, sequences: Seq[Sequence], lengths: list[int]) -> list[int]:
        """The lengths, with few new sequences at once: what more of them cost is measured first."""
        is_measured = self._is_usual or not self._drafting  # what the last new ones cost; they may have ended
        num_new = max(1, len(self._drafting) // 2) if is_measured else 0
        for at, sequence in enumerate(sequences):
            if lengths[at] and sequence not in self._drafting:
                lengths[at] = lengths[at] if num_new > 0 else 0
                num_new -= 1
        self._drafting = {sequence for sequence, num in zip(sequences, lengths, strict=True) if num}
        return lengths


def best_lengths(chances: Seq[float], rooms: Seq[int], step_s: Floats, guess_s: float) -> list[int]:
    """The lengths with the most tokens per second.

    `chances`: of each sequence, that a guess is right if all before it were; `rooms`: its most guesses; `step_s`:
    seconds of a step by the number of drafted tokens, up to the most; `guess_s`: seconds of guesses for all sequences,
    for each token ahead.
    """
    num_seqs, deepest = len(rooms), max(rooms, default=0)
    ahead = np.arange(1, deepest + 1)[:, None]  # [depth, 1]
    gains = np.where(ahead <= np.array(rooms), np.array(chances) ** ahead, 0.0)  # [depth, sequences]
    best_rate, best = num_seqs / max(step_s[0], 1e-9), np.zeros(0, dtype=np.int64)
    for depth in range(1, deepest + 1) if num_seqs > 1 else ():
        best_rate, best = better(best_rate, best, gains[:depth], step_s + depth * guess_s)
    if num_seqs == 1:  # each further guess is also one deeper
        best_rate, best = better(best_rate, best, gains, step_s + guess_s * np.arange(len(step_s)))
    return [int(num) for num in np.bincount(best % num_seqs, minlength=num_seqs)]


def better(rate: float, chosen: NDArray[np.int64], gains: Floats, seconds: Floats) -> tuple[float, NDArray[np.int64]]:
    """The given choice, or the likeliest of the guesses in `gains` [depth, sequences] if that gives more tokens/s.

    `seconds`: of a step by the number of guesses. A choice is a list of flat indices of `gains`.
    """
    flat = gains.ravel()
    order = np.argsort(-flat, kind="stable")[: len(seconds) - 1]  # of equal ones the nearest, so that none is left out
    order = order[flat[order] > 0]
    rates = (gains.shape[1] + np.cumsum(flat[order])) / np.maximum(seconds[1 : len(order) + 1], 1e-9)
    if not len(order) or rates.max() <= rate:
        return rate, chosen
    num = int(rates.argmax()) + 1
    return float(rates.max()), order[:num]
