"""Recording what a function launches on the GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Launches = Callable[[], None]
Record = Callable[[Launches], Launches]


@cache
def pool_of_all() -> tuple[torch.cuda.CUDAGraph, Any]:
    """A memory pool for the recordings of all models that come and go on this GPU, and a recording that keeps it.

    What a recording has there is used within one replay only, and replays follow one another. So the pool is as large
    as the largest recording, and stays on the card while models leave.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    number = torch.zeros(1, device="cuda")
    number.add_(1)
    with torch.cuda.graph(graph, pool=pool):
        number.add_(1)
    return graph, pool


def cuda_capture(*, in_common: bool = False) -> Record:
    """A function that records the kernels another one launches, in one memory pool, and returns their replay.

    It raises RuntimeError for a function that waits for the GPU, which cannot be recorded. `in_common`: in the pool of
    all models that leave the GPU and return.
    """
    pool = pool_of_all()[1] if in_common else torch.cuda.graph_pool_handle()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # one for all: each stream keeps memory of its own

    def capture(function: Launches) -> Launches:
        with torch.inference_mode():
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                function()  # the first run may allocate, compile and tune, which cannot be recorded
                with no_waiting():
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(torch.cuda.current_stream()):  # it stays the current one if a capture fails
                with torch.cuda.graph(graph, pool=pool):
                    function()
        return graph.replay

    return capture


@contextmanager
def no_waiting() -> Iterator[None]:
    """While active, calls that make the CPU wait for the GPU raise, before a recording could break."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
