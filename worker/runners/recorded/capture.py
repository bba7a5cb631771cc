"""Recording what a function launches on the GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Launches = Callable[[], None]
Record = Callable[[Launches], Launches]


def cuda_capture() -> Record:
    """A function that records the kernels another one launches, in one memory pool, and returns their replay.

    It raises RuntimeError for a function that waits for the GPU, which cannot be recorded.
    """
    pool = torch.cuda.graph_pool_handle()
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
