"""Dialogues to tensors: token ids with labels only on the assistant's answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer

from demo.corpus import dialogues, render
from demo.tokenizer import END, PAD, START

IGNORED = -100  # the label that cross_entropy ignores
MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of whole dialogues, padded on the right; `labels` is [rows, length], already shifted by one."""

    input_ids: torch.Tensor
    labels: torch.Tensor


class DialogueEncoder:
    """Renders and encodes dialogues, and marks the tokens of answers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end: int = tokenizer.get_vocab()[END]
        self.pad: int = tokenizer.get_vocab()[PAD]
        self.header = tokenizer.encode(f"{START}assistant\n").ids

    def is_answer(self, ids: list[int]) -> list[bool]:
        """True for each token after an assistant header, up to and including the end mark."""
        flags, inside = [False] * len(ids), False
        for position, token in enumerate(ids):
            flags[position] = inside
            if token == self.end:
                inside = False
            elif ids[position - len(self.header) + 1 : position + 1] == self.header:
                inside = True
        return flags

    def batch(self, rows: list[list[int]]) -> Batch:
        """One tensor for these rows. Causal attention never looks at the padding on the right."""
        length = max(len(row) for row in rows) - 1
        input_ids = torch.full((len(rows), length), self.pad)
        labels = torch.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            input_ids[index, : len(row) - 1] = torch.tensor(row[:-1])
            answers = [token if flag else IGNORED for token, flag in zip(row, self.is_answer(row), strict=True)]
            labels[index, : len(row) - 1] = torch.tensor(answers[1:])
        return Batch(input_ids, labels)


def rows_of_like_length(rows: list[list[int]], max_tokens: int) -> Iterator[list[list[int]]]:
    """Cut rows, sorted by length, into groups of at most `max_tokens` with padding."""
    group: list[list[int]] = []
    for row in sorted(rows, key=len):
        if group and len(row) * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(row)
    yield group


def batches(
    tokenizer: Tokenizer, seed: int, max_tokens: int, num_short: int = 0, practice: float = 0.0, chunk: int = 2048
) -> Iterator[Batch]:
    """An endless, reproducible stream of batches: rows of similar length together, batches in random order.

    Each row is one whole dialogue, so attention never crosses from one to another.
    """
    encoder, rng, stream = DialogueEncoder(tokenizer), Random(seed), dialogues(seed, num_short, practice)
    while True:
        texts = [render(dialogue) for dialogue in islice(stream, chunk)]
        rows = [encoding.ids[:MAX_LENGTH] for encoding in tokenizer.encode_batch(texts)]
        groups = list(rows_of_like_length(rows, max_tokens))
        rng.shuffle(groups)
        yield from (encoder.batch(group) for group in groups)
