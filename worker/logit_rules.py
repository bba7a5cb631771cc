"""What a request asks to be done to its logits before a token is chosen: bias, penalties, forbidden ends, grammar."""

from collections.abc import Sequence as Seq

import torch

from common.wire import SamplingParams
from worker.grammar import apply_bitmask, bitmask_words
from worker.sequence import Sequence

NEVER = float("-inf")


def has_rules(sequence: Sequence) -> bool:
    """Whether anything but temperature and truncation stands between the model and the draw."""
    params = sequence.sampling
    return bool(params.logit_bias or sequence.grammar is not None or has_penalty(params) or is_end_forbidden(sequence))


def has_penalty(params: SamplingParams) -> bool:
    return params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1


def is_end_forbidden(sequence: Sequence) -> bool:
    return sequence.num_completion_tokens < sequence.sampling.min_tokens


def apply_rules(logits: torch.Tensor, sequences: Seq[Sequence]) -> None:
    """Change `logits` [S, vocab] in place, row by row for those that ask for it."""
    for at, sequence in enumerate(sequences):
        if not has_rules(sequence):
            continue
        row = logits[at]
        if has_penalty(sequence.sampling):
            penalize(row, sequence)
        if sequence.sampling.logit_bias:
            token_ids, values = zip(*sequence.sampling.logit_bias, strict=True)
            row.index_add_(0, row_index(row, token_ids), torch.tensor(values, dtype=row.dtype, device=row.device))
        if is_end_forbidden(sequence) and sequence.ends:
            row[row_index(row, tuple(sequence.ends))] = NEVER
    constrain(logits, sequences)


def penalize(row: torch.Tensor, sequence: Sequence) -> None:
    """OpenAI's presence and frequency penalties count what was generated; repetition counts the prompt as well."""
    params = sequence.sampling
    if params.repetition_penalty != 1:
        seen = torch.unique(torch.tensor(sequence.token_ids, device=row.device))
        scores = row[seen]
        row[seen] = torch.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
    generated = torch.tensor(sequence.token_ids[sequence.num_prompt_tokens :], dtype=torch.long, device=row.device)
    drawn, counts = torch.unique(generated, return_counts=True)
    row[drawn] -= params.presence_penalty + params.frequency_penalty * counts.to(row.dtype)


def constrain(logits: torch.Tensor, sequences: Seq[Sequence]) -> None:
    """Leave each grammar only the tokens that it allows next."""
    rows = [at for at, sequence in enumerate(sequences) if sequence.grammar is not None]
    if not rows:
        return
    bitmask = torch.full((len(rows), bitmask_words(logits.shape[1])), -1, dtype=torch.int32)
    for at, row in enumerate(rows):
        grammar = sequences[row].grammar
        assert grammar is not None
        grammar.fill_mask(bitmask[at])
    chosen = row_index(logits, rows)
    constrained = logits[chosen]
    apply_bitmask(constrained, bitmask.to(logits.device))
    logits[chosen] = constrained


def row_index(like: torch.Tensor, at: Seq[int]) -> torch.Tensor:
    return torch.tensor(at, dtype=torch.long, device=like.device)
