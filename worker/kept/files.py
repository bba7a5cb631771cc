"""Named tensors in a file: written in pieces by several threads, complete or not there, mapped by those who read it."""

import ctypes
import errno
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from worker.kept.keep import KeptMemory
from worker.kept.tensors import BrokenMemory, KeptTensors, header_of, placed

UNFINISHED = ".part"  # after the name of a file that is being written
CHECKSUMS = "checksums"  # a tensor [tensors, pieces] in each file
CHECKED_BYTES = 2**26  # at a time
UNREADABLE = (errno.EFAULT, 133)  # and EHWPOISON of Linux
POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14: reads pages, and fills the page table


class TensorFileWriter:
    """Writes tensors that consist of equal pieces along their first dimension, from any threads.

    With the last piece the file is there, whatever happens to this machine.
    """

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """`tensors`: of the forms that will be written, on any device. Raises OSError where the disk is too small."""
        self._path, self._unfinished = path, path.with_name(path.name + UNFINISHED)
        self._num_pieces = len(next(iter(tensors.values())))
        sums = torch.zeros(len(tensors), self._num_pieces, dtype=torch.int64)
        self._extents, num_bytes = placed({**tensors, CHECKSUMS: sums})
        self._sums, self._rows = sums, {name: row for row, name in enumerate(tensors)}
        self._lock, self._num_left = Lock(), self._num_pieces
        header, self._first = header_of(self._extents, about)
        self._fd = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, self._first + num_bytes)
            write_at(self._fd, memoryview(header), 0)
        except OSError:
            self.close()
            raise

    def put(self, piece: int, tensors: Mapping[str, torch.Tensor]) -> int:
        """Write a piece of every tensor, [1, ...], once; the number of bytes. Raises OSError."""
        total = 0
        for name, row in self._rows.items():
            size = self._extents[name].num_bytes // self._num_pieces
            numbers = bytes_of(tensors[name])
            if len(numbers) != size:
                raise ValueError(f"a piece of {name} has {len(numbers)} bytes, and others {size}")
            write_at(self._fd, numbers, self._first + self._extents[name].start + piece * size)
            self._sums[row, piece] = zlib.crc32(numbers)
            total += size
        with self._lock:
            self._num_left -= 1
            is_last = self._num_left == 0
        if is_last:
            self._finish()
        return total

    def _finish(self) -> None:
        write_at(self._fd, bytes_of(self._sums), self._first + self._extents[CHECKSUMS].start)
        os.utime(self._fd, ns=(stamp_of(self._sums),) * 2)
        os.fsync(self._fd)
        os.replace(self._unfinished, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Leave nothing unfinished behind. No thread may be in put()."""
        os.close(self._fd)
        self._unfinished.unlink(missing_ok=True)


class TensorFile(KeptTensors):
    """The tensors of a file, mapped: their pages are the page cache's. Nobody can write to them."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, or BrokenMemory for a file that another program wrote or cut."""
        fd = os.open(path, os.O_RDONLY)
        try:
            super().__init__(KeptMemory(str(path), os.fstat(fd).st_size, fd), is_read_only=True)
        finally:
            os.close(fd)
        self.path = path
        end = max((extent.start + extent.num_bytes for extent in self._extents.values()), default=0)
        if CHECKSUMS not in self._extents or self._first + end > len(self._pages):
            raise BrokenMemory(f"{path.name} is shorter than it should be")

    @property
    def num_pieces(self) -> int:
        return self[CHECKSUMS].shape[1]

    def numbers(self) -> dict[str, torch.Tensor]:
        """All tensors but the checksums."""
        return {name: self[name] for name in self if name != CHECKSUMS}

    @property
    def is_checked(self) -> bool:
        """True if a process wrote or checked it, nobody has written to it since, and it is still in memory."""
        is_same = self.path.stat().st_mtime_ns == stamp_of(self[CHECKSUMS])
        return is_same and resident_bytes(self._pages) >= len(self._pages)

    def stamp(self) -> None:
        """Call when all pieces were checked."""
        stamp = stamp_of(self[CHECKSUMS])
        if self.path.stat().st_mtime_ns != stamp:
            os.utime(self.path, ns=(stamp, stamp))

    def check(self, piece: int) -> int:
        """Read a piece of every tensor and compare its checksum; the number of bytes. Raises BrokenMemory.

        For several threads: it reads from the disk what is not in memory yet.
        """
        sums, total = self[CHECKSUMS], 0
        for row, name in enumerate(self.numbers()):
            extent = self._extents[name]
            size = extent.num_bytes // self.num_pieces
            begin, found = self._first + extent.start + piece * size, 0
            for start in range(begin, begin + size, CHECKED_BYTES):
                stop = min(start + CHECKED_BYTES, begin + size)
                self._populate(start, stop)
                with memoryview(self._pages)[start:stop] as numbers:
                    found = zlib.crc32(numbers, found)
            if found != int(sums[row, piece]):
                raise BrokenMemory(f"{self.path.name} is damaged: piece {piece} of {name} is not what was written")
            total += size
        return total

    def _populate(self, start: int, stop: int) -> None:
        """Bring bytes `[start, stop)` into memory and into this process's page table, where the system can.

        Raises BrokenMemory where they cannot be read: whoever touched them would be killed.
        """
        begin = start // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._pages.madvise(POPULATE_READ, begin, stop - begin)
        except OSError as error:
            if error.errno in UNREADABLE:
                raise BrokenMemory(f"{self.path.name} cannot be read: its disk is damaged, or it was cut") from error
            # else an older kernel: the pages come when they are read


def stamp_of(sums: torch.Tensor) -> int:
    """A time of modification, in ns, that only a file with these checksums has: whoever writes to it changes that.

    Before 2038, where the times of some file systems end.
    """
    return zlib.crc32(bytes_of(sums)) % 2**31 * 10**9


def resident_bytes(pages: mmap.mmap) -> int:
    """Of a mapping, those that need not be read from a disk; 0 where the system does not tell."""
    tell = getattr(ctypes.CDLL(None), "mincore", None)
    if tell is None:
        return 0
    found = torch.zeros(-(-len(pages) // mmap.PAGESIZE), dtype=torch.uint8)
    address = torch.frombuffer(pages, dtype=torch.uint8, count=1).data_ptr()
    if tell(ctypes.c_void_p(address), ctypes.c_size_t(len(pages)), ctypes.c_void_p(found.data_ptr())):
        return 0
    return min(int((found & 1).sum()) * mmap.PAGESIZE, len(pages))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_at(fd: int, numbers: memoryview, at: int) -> None:
    """All bytes: one call of the system writes 2 GiB at most. Raises OSError."""
    while numbers:
        written = os.pwrite(fd, numbers, at)
        numbers, at = numbers[written:], at + written
