"""Splits a step of many tokens into passes over some of its rows each, which run in parallel on one thread each.

Threads that share a matrix product wait for each other after every product, for longer than a small model's product
takes. Passes wait for each other only at the end of the step, and a busy core delays only one of them.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from worker.state.scheduled_sequence import ScheduledSequence

MIN_TOKENS = 256  # of a pass: with fewer, Python's work between the products is too large a part
PASSES_PER_THREAD = 2  # so that other threads can take the second pass of a delayed one


class MicroBatches:
    """Runs the passes of a step on `num_threads` threads of its own."""

    def __init__(self, num_threads: int) -> None:
        self.max_passes = num_threads * PASSES_PER_THREAD
        self.pool = ThreadPoolExecutor(num_threads, "micro-batch", initializer=torch.set_num_threads, initargs=(1,))

    def run(
        self, forward: Callable[[Seq[ScheduledSequence]], torch.Tensor], rows: Seq[ScheduledSequence]
    ) -> torch.Tensor:
        """Logits [S, vocab] of all rows, in order. An error of a pass is raised after all passes have ended."""
        parts = cut(rows, self.max_passes)
        if len(parts) <= 1:
            return forward(rows)
        passes = [self.pool.submit(torch.inference_mode()(forward), part) for part in parts]
        wait(passes)
        return torch.cat([each.result() for each in passes])


def cut(rows: Seq[ScheduledSequence], max_parts: int) -> list[Seq[ScheduledSequence]]:
    """Parts of neighbouring rows with about equal numbers of tokens."""
    num_tokens = sum(row.num_inputs for row in rows)
    num_parts = max(1, min(max_parts, num_tokens // MIN_TOKENS))
    parts: list[Seq[ScheduledSequence]] = []
    start = seen = share = 0
    for stop, row in enumerate(rows, 1):
        seen += row.num_inputs
        if seen * num_parts // num_tokens > share:
            parts.append(rows[start:stop])
            start, share = stop, seen * num_parts // num_tokens
    return parts
