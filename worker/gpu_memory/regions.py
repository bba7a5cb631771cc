"""Pieces of a GPU's memory that an engine gives up while its model is not loaded, and has again afterwards."""

import ctypes
from contextlib import suppress
from typing import Any, Protocol

import torch

from worker.gpu_memory.driver import MemoryDriver

SMALLEST_CHUNKS, LARGEST_CHUNK = 32, 2**26  # chunks of a region at most, unless they are of the largest size


class Piece(Protocol):
    """Memory in a row."""

    bytes: torch.Tensor  # uint8, as long as the piece is at its largest

    @property
    def num_mapped(self) -> int:
        """The first bytes, which have memory."""

    def fit(self, num_bytes: int) -> None:
        """Have memory for the first so many bytes; what is added has no defined content.

        Nothing may use what goes. Raises torch.OutOfMemoryError; it is then as it was.
        """


class Region:
    """Addresses that stay, and memory behind the first of them that comes and goes in chunks."""

    def __init__(self, driver: MemoryDriver, num_bytes: int, device: torch.device) -> None:
        """Without memory yet. Raises DriverError."""
        self._driver = driver
        self.num_bytes = -(-num_bytes // driver.granularity) * driver.granularity
        self._chunk = chunk_bytes(self.num_bytes, driver.granularity)
        self._addresses = Addresses(driver, self.num_bytes)
        self._handles: list[tuple[int, int]] = []  # size and handle of each chunk
        self.num_mapped = 0
        self.fit(min(self._chunk, self.num_bytes))  # torch asks the driver where a tensor's first byte lies
        self.bytes = self._addresses.as_tensor(device)

    def fit(self, num_bytes: int) -> None:
        """See Piece."""
        before = len(self._handles)
        try:
            while self.num_mapped < min(num_bytes, self.num_bytes):
                size = min(self._chunk, self.num_bytes - self.num_mapped)
                self._handles.append((size, self._driver.map(self._addresses.first + self.num_mapped, size)))
                self.num_mapped += size
        except torch.OutOfMemoryError:
            while len(self._handles) > before:
                self._drop_last()
            raise
        while self._handles and self.num_mapped - self._handles[-1][0] >= num_bytes:
            self._drop_last()

    def _drop_last(self) -> None:
        size, handle = self._handles.pop()
        self.num_mapped -= size
        self._driver.unmap(self._addresses.first + self.num_mapped, size, handle)

    def __del__(self) -> None:
        if getattr(self, "_handles", None):
            with suppress(Exception):  # the GPU is lost, or the process ends
                if self.bytes.is_cuda:
                    torch.cuda.synchronize(self.bytes.device)
                self.fit(0)


class Addresses:
    """Reserved until nobody has them any more: a tensor on them holds this object."""

    def __init__(self, driver: MemoryDriver, num_bytes: int) -> None:
        self._driver, self.num_bytes = driver, num_bytes
        self.first = driver.reserve(num_bytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """By which torch makes a tensor of them."""
        return {
            "shape": (self.num_bytes,),
            "typestr": "|u1",
            "data": (self.first, False),
            "strides": None,
            "version": 3,
        }

    def as_tensor(self, device: torch.device) -> torch.Tensor:
        """uint8. On a CPU the driver is a test's."""
        if device.type == "cuda":
            return torch.as_tensor(self, device=device)
        array: Any = (ctypes.c_ubyte * self.num_bytes).from_address(self.first)
        array.addresses = self
        return torch.frombuffer(array, dtype=torch.uint8)

    def __del__(self) -> None:
        if hasattr(self, "first"):
            with suppress(Exception):
                self._driver.free(self.first, self.num_bytes)


class TorchPiece:
    """A storage of torch's own allocator, which has other memory when it is there again."""

    def __init__(self, storage: torch.UntypedStorage, device: torch.device) -> None:
        self._storage = storage
        self._size = storage.nbytes()
        self.bytes = bytes_of(storage, device)

    @property
    def num_mapped(self) -> int:
        return self._storage.nbytes()

    def fit(self, num_bytes: int) -> None:
        """See Piece. All or nothing."""
        if self._storage.resizable():  # else another library looks at it, and it stays
            self._storage.resize_(self._size if num_bytes else 0)


def bytes_of(storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
    """uint8, all of it."""
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    numbers: torch.Tensor = empty.set_(storage, 0, (storage.nbytes(),))  # type: ignore[call-overload]
    return numbers


def chunk_bytes(num_bytes: int, granularity: int) -> int:
    """Of a region of this size: a driver's call takes as long for a small chunk as for a large one."""
    chunk = granularity
    while chunk < LARGEST_CHUNK and chunk * SMALLEST_CHUNKS < num_bytes:
        chunk *= 2
    return chunk
