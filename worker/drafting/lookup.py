"""Prompt lookup: guesses the tokens that followed an earlier occurrence of the last few tokens."""

from array import array
from collections.abc import Sequence as Seq

from worker.progress import OnProgress
from worker.runners.base import Runner
from worker.runners.limits import MAX_DRAFTED, Limits
from worker.state.block_pool import Moves
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

NGRAMS = (4, 3, 2)  # numbers of last tokens to look for, longest first
LOOKBACK = 8192  # tokens searched


class PromptLookup:
    """A Guesser that needs neither weights nor state."""

    max_guesses = MAX_DRAFTED
    feature_layers: tuple[int, ...] = ()
    reads_prompts = False
    kv_bytes_per_token = 0

    def attach(self, runner: Runner, limits: Limits) -> None:
        """Nothing depends on them."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Nothing to prepare."""

    def guess(self, wanted: Seq[tuple[Sequence, int]]) -> list[list[int]]:
        return [look_up(sequence.token_ids, num_ahead) for sequence, num_ahead in wanted]

    def note(self, rows: Seq[ScheduledSequence]) -> None:
        """The sequences hold all that is needed."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept."""

    def resize(self, num_blocks: int, moves: Moves) -> None:
        """No blocks are known."""


def look_up(token_ids: list[int], num_ahead: int) -> list[int]:
    """Up to `num_ahead` tokens after the latest earlier occurrence of the longest NGRAM that the tokens end with."""
    recent = token_ids[-LOOKBACK:]
    haystack = array("q", recent)
    size = haystack.itemsize
    text = haystack.tobytes()
    for num in NGRAMS:
        pattern = text[-num * size :]
        at = text.rfind(pattern, 0, len(text) - size)
        while at >= 0 and at % size:  # not aligned with a token
            at = text.rfind(pattern, 0, at + len(pattern) - 1)
        if at >= 0 and len(recent) > num:
            start = at // size + num
            return recent[start : start + num_ahead]
    return []
