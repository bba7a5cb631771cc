"""The shapes of the steps that are recorded.

A replay costs the CPU about 0.1 ms; launching a step's 300 to 600 kernels from Python costs 4 to 30 ms. A decode step
reads every weight once: 15 GB of an 8B model, 5 ms on an H100; unrecorded, the CPU would be the slower side. So it is
in a step of 544 tokens: 14 ms of kernels on an H200, in a step of 41 ms. Beyond a thousand tokens the GPU is the slower
side, its kernels queue up, and a recording gains nothing. Each shape takes 0.1 s to record, so there are few.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from worker.state.scheduled_sequence import ScheduledSequence

NUM_SEQS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)  # that decode together
VERIFIED_SEQS = (1, 2, 4, 8, 16, 32)  # that decode together, with drafts
VERIFIED_TOKENS = (2, 4, 8)  # of each of these sequences on average
MIXED_TOKENS = (64, 128, 192, 256, 384, 512, 768, 1024)  # of steps with prompt chunks
FEW_SEQS = 4  # in a step with prompt chunks; for so few, the keys of a sequence are shared among more programs
MOST_CHUNKS = 16  # prompts in a step with prompt chunks


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """What a recording has room for. Smaller ones come first."""

    num_tokens: int
    num_seqs: int
    num_tiles: int  # of sequences with more than `num_queries` tokens
    num_queries: int  # of the other sequences, at most; one kernel's launch computes them
    num_logits: int

    @property
    def kind(self) -> str:
        """For log lines."""
        if self.num_tiles:
            return "mixed steps"
        return "decode steps" if self.num_queries == 1 else "decode steps with drafts"

    def holds(self, rows: Seq[ScheduledSequence], tile_queries: int) -> bool:
        """True if a step of these rows can be computed by the recording. A tile has `tile_queries` tokens at most."""
        if len(rows) > self.num_seqs or sum(row.num_inputs for row in rows) > self.num_tokens:
            return False
        num_tiles = sum(-(-row.num_inputs // tile_queries) for row in rows if row.num_inputs > self.num_queries)
        return num_tiles <= self.num_tiles and sum(row.num_samples for row in rows) <= self.num_logits


def step_shapes(max_num_seqs: int, max_draft: int, most_drafted: int, tile_queries: int) -> list[StepShape]:
    """Decode steps, with drafts of up to `max_draft` tokens of which a step has `most_drafted`, and small mixed steps.

    Largest first: the memory of a recording is used by those after it.
    """
    drafted = most_drafted if max_draft else 0
    shapes = {StepShape(size, size, 0, 1, size) for size in up_to(max_num_seqs, NUM_SEQS)}
    for size in up_to(max_num_seqs, VERIFIED_SEQS) if max_draft else ():
        most = size + min(drafted, size * max_draft)
        for num_tokens in {min(size * each, most) for each in VERIFIED_TOKENS} | {most}:
            shapes.add(StepShape(num_tokens, size, 0, 1 + max_draft, num_tokens))
    for num_tokens in MIXED_TOKENS:
        for size in {min(FEW_SEQS, max_num_seqs), min(num_tokens, max_num_seqs, NUM_SEQS[-1])}:
            num_tiles = num_tokens // tile_queries + min(size, MOST_CHUNKS)
            num_logits = min(num_tokens, size + drafted)
            shapes.add(StepShape(num_tokens, size, num_tiles, 1 + max_draft, num_logits))
    return sorted(shapes, reverse=True)


def up_to(most: int, sizes: Seq[int]) -> list[int]:
    """The sizes below `most`, and `most` itself unless it is beyond them all."""
    largest = min(most, sizes[-1])
    return [size for size in sizes if size < largest] + [largest]
