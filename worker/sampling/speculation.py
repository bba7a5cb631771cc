"""Prompt lookup: what followed the last few tokens before is a cheap guess at what follows them now.

The guess is verified in the same forward pass, and a draw belongs to its position: the tokens are those that would have
come anyway, only more of them in a step.
"""

from array import array
from collections.abc import Iterable

from worker.sampling.logit_rules import has_rules
from worker.state.sequence import Sequence

NGRAMS = (4, 3, 2)  # last tokens that must have been seen before, longest first
LOOKBACK = 8192  # tokens searched
MAX_DRAFTED = 48  # tokens a step, over all sequences; more would make the forward pass bound by arithmetic


class Drafter:
    """Sets the `draft` of sequences that are about to decode."""

    def __init__(self, num_ahead: int) -> None:
        self.num_ahead = num_ahead  # tokens guessed per sequence; 0: never

    def draft(self, sequences: Iterable[Sequence], max_model_len: int) -> None:
        """Oldest first. Sequences whose logits depend on counts or grammars go one token at a time."""
        budget = MAX_DRAFTED
        for sequence in sequences:
            room = min(
                self.num_ahead,
                budget,
                sequence.sampling.max_tokens - sequence.num_completion_tokens - 1,
                max_model_len - len(sequence.token_ids) - 1,
            )
            can_draft = room > 0 and sequence.is_decoding and not has_rules(sequence)
            sequence.draft = look_up(sequence.token_ids, room) if can_draft else []
            budget -= len(sequence.draft)


def look_up(token_ids: list[int], num_ahead: int) -> list[int]:
    """What followed the latest earlier occurrence of the longest of NGRAMS that the tokens end with."""
    recent = token_ids[-LOOKBACK:]
    haystack = array("q", recent)
    size = haystack.itemsize
    text = haystack.tobytes()
    for num in NGRAMS:
        pattern = text[-num * size :]
        at = text.rfind(pattern, 0, len(text) - size)
        while at >= 0 and at % size:  # found across the borders of numbers
            at = text.rfind(pattern, 0, at + len(pattern) - 1)
        if at >= 0 and len(recent) > num:
            start = at // size + num
            return recent[start : start + num_ahead]
    return []
