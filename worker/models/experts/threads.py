"""Threads that each compute on one core, side by side."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from common.process.machine_memory import available_bytes

AHEAD = 2  # tasks of each thread that are begun or wait
SHARE = 0.5  # of the memory that is free, that tasks may take


class Threads:
    """Does tasks that return numbers, at most AHEAD for each thread at a time."""

    def __init__(self, pool: ThreadPoolExecutor, num_threads: int) -> None:
        self._pool = pool
        self._most = AHEAD * num_threads
        self._pending: set[Future[int]] = set()

    def do(self, task: Callable[[], int], on_done: Callable[[int], None]) -> None:
        """Begin a task as soon as there is a place. `on_done` is called in this thread, with tasks' results.

        Raises what a task raised.
        """
        while len(self._pending) >= self._most:
            self._collect(on_done)
        self._pending.add(self._pool.submit(task))

    def finish(self, on_done: Callable[[int], None]) -> None:
        """Wait for all tasks."""
        while self._pending:
            self._collect(on_done)

    def _collect(self, on_done: Callable[[int], None]) -> None:
        done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in done:
            on_done(future.result())


@contextmanager
def threads(task_bytes: int = 0) -> Iterator[Threads]:
    """As many as there are cores, or as there is memory for tasks that take `task_bytes` each.

    Within this torch computes on one thread, in each of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = int(available_bytes() * SHARE) // task_bytes if task_bytes else cores
    num_threads, before = max(1, min(cores, most)), torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, "pack", torch.set_num_threads, (1,))
    try:
        yield Threads(pool, num_threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
