"""What an engine has on a GPU: weights, which leave for host memory and return, and pools, which are empty then."""

import logging
import math
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from worker.gpu_memory.driver import MemoryDriver, driver_of
from worker.gpu_memory.host import HostBlocks
from worker.gpu_memory.moving import moved
from worker.gpu_memory.regions import Piece, Region, TorchPiece, bytes_of
from worker.gpu_memory.walk import HeldStorage, storages_in

logger = logging.getLogger(__name__)

LEAST_BYTES = 16_384  # smaller tensors stay on the card
PIECE = 2**28  # bytes with one check sum


class LostWeights(RuntimeError):
    """Weights that came back are not those that left."""


class Arena:
    """Of one engine. Its memory leaves the card in sleep() and is there again after wake().

    Nothing may use its tensors in between. By torch's own allocator, so that they have other addresses afterwards.
    """

    keeps_addresses = is_elastic = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_whole = False  # all weights are here
        self.is_asleep = False
        self.num_bytes = 0  # of the weights
        self._weights: list[Piece] = []
        self._pools: list[tuple[Piece, int]] = []  # and the bytes that each has while it is awake
        self._copy: HostBlocks | None = None
        self._sums: list[int] = []  # of the copy's pieces

    @torch.inference_mode()
    def adopt(self, roots: tuple[object, ...], *apart: type) -> None:
        """Take over the weights that these objects hold, but not what only objects of the types `apart` hold.

        They are not written any more. Raises torch.OutOfMemoryError.
        """
        self.is_whole = False
        found = storages_in(roots, self.device, LEAST_BYTES, *apart)
        own = {storage_of(piece) for piece in self._all()}
        found = [held for held in found if held.storage.data_ptr() not in own]
        self._weights += self._pieces_of(found)
        self.num_bytes = sum(piece.num_mapped for piece in self._weights)
        self.is_whole = True

    def take(self, shape: Seq[int], dtype: torch.dtype, first_bytes: int | None = None) -> torch.Tensor:
        """A pool of zeros, of which the `first_bytes` have memory if the arena is elastic; None: all.

        Raises torch.OutOfMemoryError.
        """
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.zeros(*shape, dtype=dtype, device=self.device)
        piece, wanted = self._pool(size), size if first_bytes is None or not self.is_elastic else first_bytes
        piece.fit(wanted)
        piece.bytes[: piece.num_mapped].zero_()
        self._pools.append((piece, wanted))
        return piece.bytes[:size].view(dtype).view(*shape)

    @torch.inference_mode()
    def fit(self, pool: torch.Tensor, num_bytes: int) -> None:
        """Let an elastic pool that take() has returned have memory for its first bytes; new ones are zeros.

        Waits until the GPU has computed all that it was told. Raises torch.OutOfMemoryError.
        """
        if not pool.nbytes:
            return
        storage = pool.untyped_storage().data_ptr()
        at = next(at for at, (piece, _) in enumerate(self._pools) if storage_of(piece) == storage)
        piece, _ = self._pools[at]
        before = piece.num_mapped
        self._wait()
        if not self.is_asleep:
            piece.fit(num_bytes)
            piece.bytes[before : piece.num_mapped].zero_()
        self._pools[at] = piece, num_bytes

    @property
    def host_bytes(self) -> int:
        """Host memory that its copy takes."""
        return self._copy.num_bytes if self._copy is not None else 0

    @property
    def card_bytes(self) -> int:
        """Memory of the card that torch's own allocator knows nothing of."""
        return sum(piece.num_mapped for piece in self._all()) if self.keeps_addresses else 0

    @torch.inference_mode()
    def sleep(self) -> None:
        """Copy what is not copied yet, and free all of the card's memory. Raises OSError or MemoryError."""
        with self._copying():
            self._save()
        self._wait()
        for piece in self._all():
            piece.fit(0)
        self.is_asleep = True

    @torch.inference_mode()
    def wake(self) -> None:
        """Bring the weights back; pools are zeros. Raises torch.OutOfMemoryError, and is asleep then; LostWeights."""
        try:
            with self._copying():
                for piece in self._weights:
                    piece.fit(piece.bytes.nbytes)
                for there, here in self._spans():
                    there.copy_(here, non_blocking=True)
                for piece, num_bytes in self._pools:  # while the weights are being copied
                    piece.fit(num_bytes)
                    piece.bytes[: piece.num_mapped].zero_()
                sums = self._check_sums()
        except torch.OutOfMemoryError:
            for piece in self._all():
                piece.fit(0)
            raise
        self.is_asleep = False
        if sums != self._sums:
            raise LostWeights("the weights that came back from host memory are not those that left for it")

    def drop_copy(self) -> None:
        """Free the host memory, while the weights are on the card."""
        self._copy, self._sums = None, []

    def close(self) -> None:
        """Free all memory: nothing may use the tensors any more."""
        self._wait()
        for piece in self._all():
            piece.fit(0)
        self._weights, self._pools = [], []
        self.drop_copy()

    def _pieces_of(self, found: list[HeldStorage]) -> list[Piece]:
        for held in found:
            if not held.storage.resizable():  # memory of another library
                numbers = bytes_of(held.storage, self.device).clone()
                held.put_on(numbers.untyped_storage(), 0)
        return [TorchPiece(held.storage, self.device) for held in found]

    def _pool(self, num_bytes: int) -> Piece:
        return TorchPiece(torch.empty(num_bytes, dtype=torch.uint8, device=self.device).untyped_storage(), self.device)

    def _blocks(self) -> HostBlocks:
        return HostBlocks(sum(piece.bytes.nbytes for piece in self._weights), None)

    def _all(self) -> list[Piece]:
        return [*self._weights, *(piece for piece, _ in self._pools)]

    def _save(self) -> None:
        if self._copy is None:
            self._copy, self._sums = self._blocks(), []
        sums = self._check_sums()
        for at, (there, here) in enumerate(self._spans()):
            if at >= len(self._sums) or self._sums[at] != sums[at]:
                here.copy_(there, non_blocking=True)
        self._sums = sums

    def _check_sums(self) -> list[int]:
        """Of each span on the card: reading it there takes a sixtieth of the time of copying it."""
        sums = [sum_of(there) for there, _ in self._spans()]
        return torch.stack(sums).tolist() if sums else []

    def _spans(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Bytes of the weights, and of their copy."""
        assert self._copy is not None
        blocks = iter(self._copy.blocks)
        block, at = torch.empty(0, dtype=torch.uint8), 0
        for piece in self._weights:
            first, stop = 0, piece.bytes.nbytes
            while first < stop:
                if at == block.nbytes:
                    block, at = next(blocks), 0
                size = min(PIECE, stop - first, block.nbytes - at)
                yield piece.bytes[first : first + size], block[at : at + size]
                first, at = first + size, at + size

    def _copying(self) -> AbstractContextManager[object]:
        """Within it copies run beside the steps of other engines; they are waited for at its end."""
        return OwnStream(self.device) if self.device.type == "cuda" else nullcontext()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


class VirtualArena(Arena):
    """An Arena whose tensors have the same addresses when they are there again, so that recorded steps stay valid."""

    keeps_addresses = is_elastic = True

    def __init__(self, device: torch.device, driver: MemoryDriver) -> None:
        super().__init__(device)
        self._driver = driver

    def _pieces_of(self, found: list[HeldStorage]) -> list[Piece]:
        """Move the storages into one region, so that what torch has taken for them is free again."""
        return [moved(found, self._driver, self.device)] if found else []

    def _pool(self, num_bytes: int) -> Piece:
        return Region(self._driver, num_bytes, self.device)

    def _blocks(self) -> HostBlocks:
        return HostBlocks(sum(piece.bytes.nbytes for piece in self._weights), self._driver)


class OwnStream:
    """What is computed within it runs beside all else on the device; it is waited for at the end."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._current = torch.cuda.stream(self._stream)

    def __enter__(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._current.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self._current.__exit__(*error)
        self._stream.synchronize()


def arena_of(device: torch.device) -> Arena | None:
    """For an engine on this GPU; None for one on a CPU, where the keeper holds weights."""
    if device.type != "cuda":
        return None
    here = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    driver = driver_of(here.index)
    return Arena(here) if driver is None else VirtualArena(here, driver)


def mapped_bytes(device: torch.device) -> int:
    """Of all arenas on this GPU, which torch's own allocator knows nothing of."""
    driver = driver_of(torch.cuda.current_device() if device.index is None else device.index)
    return 0 if driver is None else driver.mapped_bytes


def storage_of(piece: Piece) -> int:
    return piece.bytes.untyped_storage().data_ptr()


def sum_of(numbers: torch.Tensor) -> torch.Tensor:
    """A check sum of bytes, int64."""
    whole = 0 if numbers.storage_offset() % 8 else numbers.nbytes // 8 * 8
    return numbers[:whole].view(torch.int64).sum() + numbers[whole:].sum(dtype=torch.int64)
