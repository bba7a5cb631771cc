"""One sequence that is generated elsewhere: what to ask next, and whether an answer may be kept.

A server that is asked to go on from token ids has forgotten what came before: penalties that count generated tokens,
and a grammar's place, are brought to it with each question.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from worker.remote.client import Stream
from worker.remote.wire import Question
from worker.sampling.grammar import bitmask_words
from worker.sampling.logit_rules import is_end_forbidden
from worker.state.sequence import Sequence

MAX_LISTED = 1024  # token ids that vLLM takes in allowed_token_ids, and in logit_bias
NEVER = -100.0  # the lowest bias there is


@dataclass(slots=True, eq=False)
class RemoteSequence:
    """`stream` is the question under way, if there is one.

    A grammar that leaves few tokens names them in the question. One that leaves many lets the server draw freely: what
    it may not be is thrown away and drawn again without it, which gives each allowed token its right probability.
    """

    sequence: Sequence
    vocab_size: int
    stream: Stream | None = None
    num_before: int = 0  # completion tokens when it was asked
    num_lost: int = 0  # answers that broke off since the last token
    banned: set[int] = field(default_factory=set)  # drawn for the next place and not allowed there
    _allowed: np.ndarray | None = None  # [vocab_size] bool, for the next place; None: not computed yet

    @property
    def only_choice(self) -> int | None:
        """The one token that the grammar leaves: nobody needs to be asked, unless its probability is wanted."""
        if self.sequence.grammar is None or self.sequence.sampling.logprobs is not None:
            return None
        allowed = self.allowed()
        return int(allowed.argmax()) if allowed.sum() == 1 else None

    def question(self, max_model_len: int) -> Question:
        sequence = self.sequence
        left = sequence.sampling.max_tokens - sequence.num_completion_tokens
        left = min(left, max_model_len - len(sequence.token_ids))
        bias = dict(sequence.sampling.logit_bias)
        for token_id, penalty in self._penalties().items():
            bias[token_id] = bias.get(token_id, 0.0) - penalty
        if sequence.sampling.presence_penalty and sequence.num_completion_tokens:
            left = 1  # counted once, whoever counts: not by the bias and again by the server
        if sequence.grammar is None:
            return Question(left, largest(bias))
        allowed = self.allowed()
        if allowed.sum() <= MAX_LISTED:
            return Question(1, largest(bias), allowed.nonzero()[0].tolist())
        bias |= dict.fromkeys(self.banned, NEVER)
        return Question(1 if self.banned else left, largest(bias))

    def may_keep(self, token_id: int) -> bool:
        """Whether the grammar allows the token next; if not, it will not be drawn here again."""
        if self.sequence.grammar is None or self.allowed()[token_id]:
            return True
        self.banned.add(token_id)
        return False

    def accept(self, token_id: int, max_model_len: int) -> str:
        """See Sequence.accept."""
        self._allowed = None
        self.banned.clear()
        self.num_lost = 0
        return self.sequence.accept(token_id, max_model_len)

    def allowed(self) -> np.ndarray:
        """[vocab_size] bool: what the grammar and min_tokens leave for the next place."""
        assert self.sequence.grammar is not None
        if self._allowed is None:
            mask = torch.zeros(bitmask_words(self.vocab_size), dtype=torch.int32)
            self.sequence.grammar.fill_mask(mask)
            bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
            self._allowed = bits[: self.vocab_size].astype(bool)
            if is_end_forbidden(self.sequence):
                self._allowed[list(self.sequence.ends)] = False
        return self._allowed

    def _penalties(self) -> dict[int, float]:
        """What presence and frequency take off the tokens that were generated before this question."""
        sampling = self.sequence.sampling
        if not sampling.presence_penalty and not sampling.frequency_penalty:
            return {}
        counts = Counter(self.sequence.token_ids[self.sequence.num_prompt_tokens :])
        return {
            token_id: sampling.presence_penalty + sampling.frequency_penalty * count
            for token_id, count in counts.items()
        }


def largest(bias: dict[int, float]) -> dict[int, float]:
    """As many entries as a server takes, the weightiest."""
    if len(bias) <= MAX_LISTED:
        return bias
    return dict(sorted(bias.items(), key=lambda item: -abs(item[1]))[:MAX_LISTED])
