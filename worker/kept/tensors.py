"""Named tensors in kept memory: eight bytes of magic, eight of the header's length, a JSON header, then the numbers."""

import json
import math
import mmap
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from worker.kept.keep import Keep, KeptMemory

MAGIC = b"omni-1\n\0"
ALIGNMENT = 64  # bytes, of a tensor's first number
PREFIX = struct.Struct("<8sQ")


class BrokenMemory(ValueError):
    """Kept memory that does not hold what it should."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor's form, and where its numbers begin after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * dtype_named(self.dtype).itemsize

    def of(self, pages: mmap.mmap, first: int) -> torch.Tensor:
        """The tensor on these pages, without a copy. `first`: where numbers begin."""
        dtype = dtype_named(self.dtype)
        if self.num_bytes == 0:
            return torch.empty(self.shape, dtype=dtype)
        numbers = torch.frombuffer(pages, dtype=torch.uint8, count=self.num_bytes, offset=first + self.start)
        return numbers.view(dtype).view(self.shape)


def dtype_named(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise BrokenMemory(f"{name!r} is no dtype")
    return dtype


def aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


class KeptTensors(Mapping[str, torch.Tensor]):
    """Tensors of memory that somebody has filled, read without copies. What is written to them stays in this process.

    The mapping lives as long as this or one of its tensors.
    """

    def __init__(self, memory: KeptMemory, *, is_read_only: bool = False) -> None:
        """Raises BrokenMemory."""
        pages = memory.map(is_private=True, is_read_only=is_read_only)
        if is_read_only:
            allow_read_only()
        magic, length = PREFIX.unpack_from(pages) if len(pages) >= PREFIX.size else (b"", 0)
        if magic != MAGIC:
            raise BrokenMemory("it does not begin as it should")
        header = json.loads(pages[PREFIX.size : PREFIX.size + length])
        self.about: dict[str, Any] = header["about"]
        self._extents = {
            name: Extent(dtype, tuple(shape), at) for name, (dtype, shape, at) in header["tensors"].items()
        }
        self._first = aligned(PREFIX.size + length)
        self._pages = pages
        use_huge_pages(pages)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._extents[name].of(self._pages, self._first)

    @property
    def num_bytes(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)


def placed(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Extent], int]:
    """Tensors of these forms one after the other, and the bytes that they take."""
    extents: dict[str, Extent] = {}
    start = 0
    for name, tensor in tensors.items():
        extents[name] = Extent(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), start)
        start += aligned(extents[name].num_bytes)
    return extents, start


def header_of(extents: Mapping[str, Extent], about: Mapping[str, Any]) -> tuple[bytes, int]:
    """What stands before the numbers, and where these begin."""
    forms = {name: (extent.dtype, extent.shape, extent.start) for name, extent in extents.items()}
    header = json.dumps({"about": about, "tensors": forms}).encode()
    return PREFIX.pack(MAGIC, len(header)) + header, aligned(PREFIX.size + len(header))


class TensorWriter:
    """Fills new memory: put() each tensor, then finish()."""

    def __init__(self, keep: Keep, name: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """`tensors`: of the same forms as those that will be put. Raises OSError where memory is missing."""
        self._extents, num_bytes = placed(tensors)
        header, self._first = header_of(self._extents, about)
        self._keep = keep
        self._memory = keep.create(name, self._first + num_bytes)
        self._pages = self._memory.map()
        use_huge_pages(self._pages)
        self._pages[: len(header)] = header

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self._extents[name].of(self._pages, self._first).copy_(tensor)

    def finish(self) -> KeptTensors:
        """From now on the memory is found, by a successor too."""
        self._keep.put(self._memory)
        return KeptTensors(self._memory)


@cache
def allow_read_only() -> None:
    """Let torch give its warning of tensors that nobody may write to now, unheard: it has only one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.frombuffer(b"0", dtype=torch.uint8)


def use_huge_pages(pages: mmap.mmap) -> None:
    """Where the system has them for such memory: mapping a gigabyte anew takes 512 page faults instead of 262,144."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        try:
            pages.madvise(advice)
        except OSError:  # a kernel without them
            return
