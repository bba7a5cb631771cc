"""Threads that each compute on one core, side by side."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from common.process.machine_memory import available_bytes
from worker.device import usable_cores
from worker.kernels.experts.nodes import INTERLEAVE, NODES, set_policy

AHEAD = 2  # tasks of each thread that are begun or wait
SHARE = 0.5  # of the memory that is free, that tasks may take
ONLINE = NODES / "online"  # such as "0-1,3"


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
    cores = usable_cores()
    most = int(available_bytes() * SHARE) // task_bytes if task_bytes else cores
    num_threads, before = max(1, min(cores, most)), torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, "pack", begin)
    try:
        yield Threads(pool, num_threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def begin() -> None:
    """What each thread does first."""
    torch.set_num_threads(1)
    spread_memory(nodes_in(ONLINE.read_text()) if ONLINE.exists() else ())


def nodes_in(text: str) -> tuple[int, ...]:
    """The numbers of "0-1,3"."""
    spans = [span.partition("-") for span in text.strip().split(",") if span]
    return tuple(node for low, _, high in spans for node in range(int(low), int(high or low) + 1))


def spread_memory(nodes: tuple[int, ...]) -> bool:
    """Let pages that this thread brings into memory, of files too, lie on all nodes in turn; False if they do not.

    Experts are read by the cores of all sockets: on the node of the thread that packed them they would wait for it.
    """
    return len(nodes) > 1 and set_policy(INTERLEAVE, nodes)
