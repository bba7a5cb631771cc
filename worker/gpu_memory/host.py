"""Host memory for copies of a GPU's memory, locked into its place so that a copy runs at the link's full rate."""

import logging
import mmap
import sys
from contextlib import suppress

import torch

from worker.gpu_memory.driver import DriverError, MemoryDriver

logger = logging.getLogger(__name__)

BLOCK = 2**30  # bytes that are mapped and locked at a time
HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # locked in a tenth of the time


class HostBlocks:
    """So many bytes, in blocks. They are freed with the object, whose tensors nobody may use then."""

    def __init__(self, num_bytes: int, driver: MemoryDriver | None) -> None:
        """Raises OSError or MemoryError. Without a driver they are torch's own pinned memory, or ordinary."""
        self.num_bytes = num_bytes
        self.is_pinned = True
        self._driver = driver
        self._pinned: list[int] = []  # addresses
        self.blocks = [self._block(min(BLOCK, num_bytes - at)) for at in range(0, num_bytes, BLOCK)]

    def _block(self, num_bytes: int) -> torch.Tensor:
        if self._driver is None:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        pages = mmap.mmap(-1, num_bytes, **private())
        if HUGE_PAGES is not None:
            pages.madvise(HUGE_PAGES)
        block = torch.frombuffer(pages, dtype=torch.uint8)
        block[:: mmap.PAGESIZE].zero_()  # all threads make the pages; locking ones that are not there takes longer
        try:
            self._driver.pin(block.data_ptr(), num_bytes)
            self._pinned.append(block.data_ptr())
        except DriverError as reason:
            if self.is_pinned:
                logger.warning("models come and go at a part of the link's rate: host memory is not locked: %s", reason)
            self.is_pinned = False
        return block

    def __del__(self) -> None:
        for address in getattr(self, "_pinned", ()):
            assert self._driver is not None
            with suppress(Exception):  # the GPU is lost, or the process ends
                self._driver.unpin(address)


def private() -> dict[str, int]:
    """Of an anonymous mapping that no other process sees."""
    return {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANON} if sys.platform != "win32" else {}
