"""A step of many tokens as several passes side by side, each over some of its rows and by one thread.

Threads that share a product wait for each other after each of them, for longer than a product of a small model takes.
Passes wait for each other only at the end of the step; what other processes take of a core holds up one of them.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from worker.state.scheduled_sequence import ScheduledSequence

MIN_TOKENS = 256  # of a pass: with fewer, what Python does between the products is too much of it
PASSES_PER_THREAD = 2  # so that the others can take the second one of a thread that is held up


class MicroBatches:
    """Cuts steps for `num_threads` threads of its own."""

    def __init__(self, num_threads: int) -> None:
        self.max_passes = num_threads * PASSES_PER_THREAD
        self.pool = ThreadPoolExecutor(num_threads, "micro-batch", initializer=torch.set_num_threads, initargs=(1,))

    def run(
        self, forward: Callable[[Seq[ScheduledSequence]], torch.Tensor], rows: Seq[ScheduledSequence]
    ) -> torch.Tensor:
        """Logits [S, vocab] of all rows, in order. Raises what a pass raises, after the last of them has ended."""
        parts = cut(rows, self.max_passes)
        if len(parts) <= 1:
            return forward(rows)
        passes = [self.pool.submit(torch.inference_mode()(forward), part) for part in parts]
        wait(passes)
        return torch.cat([each.result() for each in passes])


def cut(rows: Seq[ScheduledSequence], max_parts: int) -> list[Seq[ScheduledSequence]]:
    """Neighbouring rows together, about as many tokens in each part."""
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
