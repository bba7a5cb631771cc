"""Tells if our Triton kernels run on this machine."""

from functools import cache
from importlib.util import find_spec

import torch


def has_triton() -> bool:
    """True where kernels of worker/kernels/gpu run: torch's CUDA builds for Linux bring Triton, but no C compiler.

    Without a GPU: where it can be imported.
    """
    return not why_no_triton()


@cache
def why_no_triton() -> str:
    """Empty if Triton is installed and, on a machine with a GPU, has launched a kernel; tried once in a process."""
    if find_spec("triton") is None:
        return "it is not installed; torch's CUDA builds for Linux bring it"
    if not torch.cuda.is_available():
        return ""
    from worker.kernels.gpu.runtime import why_no_launch

    return why_no_launch(torch.device("cuda"))
