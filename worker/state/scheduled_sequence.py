"""One sequence's part of a step."""

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.state.sequence import Sequence

UNREAD = 0  # placeholder of a pending token among input ids; the runner replaces it


@dataclass(slots=True)
class ScheduledSequence:
    """The next `num_tokens` tokens of a sequence, followed by its draft.

    The other fields are taken from the sequence when the step is scheduled.
    """

    sequence: Sequence
    num_tokens: int
    start: int = field(init=False)  # position of the first token
    samples: bool = field(init=False)  # it reaches the end of the sequence, so the next token can be sampled
    _num_taken_back: int = field(init=False)
    _block_ids: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.start = self.sequence.num_computed
        self.samples = self.num_tokens == self.sequence.num_uncomputed
        self._num_taken_back = self.sequence.num_taken_back
        self._block_ids = self.sequence.block_ids

    @property
    def num_inputs(self) -> int:
        return self.num_tokens + len(self.sequence.draft)

    @property
    def num_samples(self) -> int:
        """Tokens sampled in this step: the next one, and one after each drafted token."""
        return 1 + len(self.sequence.draft) if self.samples else 0

    @property
    def input_ids(self) -> list[int]:
        """Token ids [num_inputs]; UNREAD for a pending token."""
        token_ids = self.sequence.token_ids[self.start : self.start + self.num_tokens]
        if len(token_ids) < self.num_tokens:
            token_ids.append(UNREAD)
        return token_ids + self.sequence.draft

    @property
    def pending(self) -> int | None:
        """Index of the last input among the samples of the step in flight; None if all inputs are known."""
        return self.sequence.pending if self.samples else None

    @property
    def is_void(self) -> bool:
        """It was computed from a pending token that was taken back since."""
        return self._num_taken_back != self.sequence.num_taken_back

    @property
    def has_its_blocks(self) -> bool:
        """The sequence was not preempted since: its keys and values are where the row wrote them."""
        return self._block_ids is self.sequence.block_ids

    def from_start(self) -> "ScheduledSequence":
        """The same step with every earlier token of the sequence computed again."""
        whole = ScheduledSequence(self.sequence, self.start + self.num_tokens)
        whole.start, whole.samples = 0, self.samples
        return whole


IsLive = Callable[[ScheduledSequence], bool]  # its sequence has neither ended nor been cancelled
