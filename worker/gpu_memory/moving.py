"""Moves storages of torch's allocator into a region, so that the memory that torch has taken for them is free again."""

import torch

from worker.gpu_memory.driver import MemoryDriver
from worker.gpu_memory.regions import Region, bytes_of
from worker.gpu_memory.walk import HeldStorage

ALIGNMENT = 512  # bytes, of each storage in a region: what torch's allocator gives
BATCH = 2**30  # bytes that are there twice at a time


def moved(found: list[HeldStorage], driver: MemoryDriver, device: torch.device) -> Region:
    """All of these, which are taken from the list. Raises torch.OutOfMemoryError."""
    places, size = [], 0
    for held in found:
        places.append(size)
        size += -(-held.storage.nbytes() // ALIGNMENT) * ALIGNMENT
    region = Region(driver, size, device)
    while found:
        batch = batch_of(found, places)
        try:
            region.fit(batch[-1][1] + batch[-1][0].storage.nbytes())
        except torch.OutOfMemoryError:
            batch += zip(found, places, strict=True)
            found.clear()
            move_by_host(region, batch, device)
            break
        while batch:
            move(region, *batch.pop())
        return_freed(device)
    region.fit(region.num_bytes)
    return region


def batch_of(found: list[HeldStorage], places: list[int]) -> list[tuple[HeldStorage, int]]:
    """The next storages to move, and their places: no more than BATCH, but one at least. Taken from both lists."""
    size, count = 0, 0
    while count < len(found) and (not count or size + found[count].storage.nbytes() <= BATCH):
        size += found[count].storage.nbytes()
        count += 1
    batch = list(zip(found[:count], places[:count], strict=True))
    del found[:count], places[:count]
    return batch


def move(region: Region, held: HeldStorage, at: int) -> None:
    """The old storage is free afterwards, unless tensors look at it that were not found."""
    region.bytes[at : at + held.storage.nbytes()].copy_(bytes_of(held.storage, region.bytes.device))
    held.put_on(region.bytes.untyped_storage(), at)


def move_by_host(region: Region, batch: list[tuple[HeldStorage, int]], device: torch.device) -> None:
    """As move(), where the GPU has no room for two of them. Raises torch.OutOfMemoryError."""
    copies = []
    for held, at in batch:
        copies.append((bytes_of(held.storage, device).to("cpu", copy=True), at))
        held.put_on(region.bytes.untyped_storage(), at)
    return_freed(device)
    region.fit(region.num_bytes)
    for copy, at in copies:
        region.bytes[at : at + copy.nbytes].copy_(copy)


def return_freed(device: torch.device) -> None:
    """What torch's allocator has free goes back to the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
