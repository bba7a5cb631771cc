"""Prompt lookup: drafts the tokens that followed an earlier occurrence of the last few tokens.

A draft is verified in the same forward pass, and random numbers belong to positions: speculation changes how many
tokens a step gives, never which.
"""

from array import array
from collections.abc import Iterable

from worker.runners.limits import MAX_DRAFTED
from worker.sampling.logit_rules import has_rules
from worker.state.sequence import Sequence

NGRAMS = (4, 3, 2)  # numbers of last tokens to look for, longest first
LOOKBACK = 8192  # tokens searched


class Drafter:
    """Sets the `draft` of decoding sequences."""

    def __init__(self, num_ahead: int) -> None:
        self.num_ahead = num_ahead  # most draft tokens of a sequence

    def draft(self, sequences: Iterable[Sequence], max_model_len: int) -> None:
        """Oldest first. Sequences whose logits depend on counts or grammars get no draft."""
        budget = MAX_DRAFTED
        for sequence in sequences:
            room = min(
                self.num_ahead,
                budget,
                sequence.sampling.max_tokens - sequence.num_completion_tokens - 1,
                max_model_len - sequence.num_tokens - 1,
            )
            can_draft = room > 0 and sequence.is_decoding and not has_rules(sequence)
            sequence.draft = look_up(sequence.token_ids, room) if can_draft else []
            budget -= len(sequence.draft)


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
