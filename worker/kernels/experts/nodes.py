"""Nodes of memory: on machines with several processors each reads its own faster.

Linux puts a page on the node that the thread asks for which writes to it first. Other systems have one node here.
"""

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch

NODES = Path("/sys/devices/system/node")
SET_MEMPOLICY = MappingProxyType({"x86_64": 238, "aarch64": 237})  # numbers of the system call
DEFAULT, PREFERRED, INTERLEAVE = 0, 1, 3  # of linux/mempolicy.h
MASK_BITS = 1024  # the most nodes that Linux has
MAX_NODES = 16  # of worker/kernels/experts.c


@cache
def count_nodes() -> int:
    """Those that have processors, if the system numbers them from 0 on; else 1."""
    own = sorted(int(path.name[4:]) for path in NODES.glob("node[0-9]*") if has_processors(path))
    is_known = platform.machine() in SET_MEMPOLICY and own == list(range(len(own))) and len(own) <= MAX_NODES
    return len(own) if own and is_known else 1


def has_processors(node: Path) -> bool:
    try:
        return bool((node / "cpulist").read_text().strip())
    except OSError:
        return False


@contextmanager
def fresh_memory_on(node: int) -> Iterator[None]:
    """Pages that this thread is the first to write to lie on this node, while there is room."""
    set_policy(PREFERRED, [node])
    try:
        yield
    finally:
        set_policy(DEFAULT, ())


def set_policy(mode: int, nodes: Sequence[int]) -> bool:
    """Where pages lie that this thread brings into memory; False if the system does not do so."""
    if (number := SET_MEMPOLICY.get(platform.machine())) is None:
        return False
    mask = (ctypes.c_ulong * (MASK_BITS // 64))()
    for node in nodes:
        mask[node // 64] |= 1 << node % 64
    return bool(ctypes.CDLL(None).syscall(number, mode, mask if nodes else None, ctypes.c_ulong(MASK_BITS)) == 0)


def copy_over_nodes(part: torch.Tensor, to: torch.Tensor, num_nodes: int) -> None:
    """Copy contiguous numbers to memory that nobody has written to: the first of them to the first node, and so on."""
    size = part.numel() * part.element_size()
    for node in range(num_nodes):
        start, stop = size * node // num_nodes, size * (node + 1) // num_nodes
        with fresh_memory_on(node):
            ctypes.memmove(to.data_ptr() + start, part.data_ptr() + start, stop - start)
