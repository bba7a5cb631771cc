"""Changes to a request's logits before sampling: penalties, bias, min_tokens, grammar."""

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from common.wire import SamplingParams
from worker.device import upload
from worker.sampling.bitmask import apply_bitmask
from worker.sampling.masks import Masks
from worker.state.sequence import Sequence

NEVER = float("-inf")


def has_rules(sequence: Sequence) -> bool:
    """True if anything but temperature and truncation changes the sequence's distribution."""
    params = sequence.sampling
    return bool(params.logit_bias or sequence.grammar is not None or has_penalty(params) or is_end_forbidden(sequence))


def has_penalty(params: SamplingParams) -> bool:
    return params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1


def is_end_forbidden(sequence: Sequence) -> bool:
    """True while the sequence has fewer than `min_tokens` tokens."""
    return sequence.num_completion_tokens < sequence.sampling.min_tokens


def apply_rules(logits: torch.Tensor, sequences: Seq[Sequence], masks: Masks) -> None:
    """Change the rows of `logits` [S, vocab] whose sequences ask for it, in place."""
    for at, sequence in enumerate(sequences):
        if has_penalty(sequence.sampling):
            penalize(logits[at], sequence)
        if sequence.sampling.logit_bias:
            row = logits[at]
            token_ids, values = zip(*sequence.sampling.logit_bias, strict=True)
            row.index_add_(0, row_index(row, token_ids), upload(torch.tensor(values, dtype=row.dtype), row.device))
        if is_end_forbidden(sequence) and sequence.stop_token_ids:
            row = logits[at]
            row[row_index(row, tuple(sequence.stop_token_ids))] = NEVER
    if masks is not None:
        constrain(logits, sequences, upload(masks(), logits.device))


def penalize(row: torch.Tensor, sequence: Sequence) -> None:
    """Presence and frequency penalties count generated tokens; the repetition penalty counts the prompt as well."""
    params = sequence.sampling
    if params.repetition_penalty != 1:
        seen = row_index(row, np.unique(sequence.token_ids))
        scores = row[seen]
        row[seen] = torch.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
    drawn, counts = np.unique(sequence.token_ids[sequence.num_prompt_tokens :], return_counts=True)
    change = params.presence_penalty + params.frequency_penalty * counts
    row[row_index(row, drawn)] -= upload(torch.tensor(change, dtype=row.dtype), row.device)


def constrain(logits: torch.Tensor, sequences: Seq[Sequence], bitmask: torch.Tensor) -> None:
    """Forbid the tokens that grammars do not allow next. `bitmask` has a row for each sequence with a grammar."""
    if len(bitmask) == len(logits):
        apply_bitmask(logits, bitmask)
        return
    chosen = row_index(logits, [at for at, sequence in enumerate(sequences) if sequence.grammar is not None])
    constrained = logits[chosen]
    apply_bitmask(constrained, bitmask)
    logits[chosen] = constrained


def row_index(like: torch.Tensor, at: Seq[int] | NDArray[np.int64]) -> torch.Tensor:
    return upload(torch.tensor(at, dtype=torch.long), like.device)
