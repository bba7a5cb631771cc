"""Host memory for keys and values, of which pages are used only as they are written."""

import math
import mmap
import sys
from collections.abc import Sequence as Seq

import torch

PAGE = mmap.PAGESIZE
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE: address space for more than there is memory


def private_pages(num_bytes: int) -> mmap.mmap:
    """Zeros of this process. Huge pages are avoided, because clearing one stalls a step."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON | NO_RESERVE)


def whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE) * PAGE


class HostMemory:
    """Tensors one after the other in a mapping. It is unmapped when nobody has the tensors any more."""

    is_elastic = True  # blocks' memory comes and goes

    def __init__(self, pages: mmap.mmap, first: int = 0, *, is_shared: bool = False) -> None:
        """`first`: the byte, at the beginning of a page, where the tensors begin."""
        self._pages = pages
        self._at = first
        self._begin = torch.frombuffer(pages, dtype=torch.uint8, count=1).data_ptr()
        self._free = mmap.MADV_REMOVE if is_shared else mmap.MADV_DONTNEED  # in the memfd, or in the mapping

    def take(self, shape: Seq[int], dtype: torch.dtype) -> torch.Tensor:
        """The next tensor."""
        count = math.prod(shape)
        tensor = torch.frombuffer(self._pages, dtype=dtype, count=count, offset=self._at)
        self._at += whole_pages(count * dtype.itemsize)
        return tensor.view(*shape)

    def fit(self, pool: torch.Tensor, num_blocks: int) -> None:
        """Free the memory of all blocks of [heads, blocks, ...] but the first ones."""
        for head in pool:
            self.give_back(head[num_blocks:])

    def give_back(self, part: torch.Tensor) -> None:
        """Free the pages that lie wholly within a contiguous part of a tensor. On Linux they are zeros again."""
        start = whole_pages(part.data_ptr() - self._begin)
        stop = (part.data_ptr() - self._begin + part.nbytes) // PAGE * PAGE
        if start < stop:
            self._pages.madvise(self._free, start, stop - start)
