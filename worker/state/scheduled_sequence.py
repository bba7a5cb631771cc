"""One sequence's part of a step."""

from dataclasses import dataclass, field

from worker.state.sequence import Sequence


@dataclass(slots=True)
class ScheduledSequence:
    """The next `num_tokens` tokens of a sequence, and its drafted ones after them.

    `start` and `samples` are taken from the sequence when the step is scheduled.
    """

    sequence: Sequence
    num_tokens: int
    start: int = field(init=False)  # position of the first of them
    samples: bool = field(init=False)  # it reaches the end of the sequence's tokens, so the next one can be sampled
    is_void: bool = field(init=False, default=False)  # computed from a token that was taken back

    def __post_init__(self) -> None:
        self.start = self.sequence.num_computed
        self.samples = self.num_tokens == self.sequence.num_uncomputed

    @property
    def num_inputs(self) -> int:
        return self.num_tokens + len(self.sequence.draft)

    def from_start(self) -> "ScheduledSequence":
        """The same step with every earlier token of the sequence computed again."""
        whole = ScheduledSequence(self.sequence, self.start + self.num_tokens)
        whole.start, whole.samples = 0, self.samples
        return whole
