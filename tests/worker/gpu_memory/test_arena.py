"""Weights leave and return at the same addresses; pools grow and shrink; what does not fit changes nothing."""

import ctypes
import ctypes.util
import gc
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.gpu_memory.conftest import StandInDriver
from worker.gpu_memory import moving as moving_module
from worker.gpu_memory.arena import Arena, LostWeights, VirtualArena
from worker.gpu_memory.driver import DriverError, MemoryDriver, NoDriver
from worker.gpu_memory.regions import Region
from worker.gpu_memory.walk import storages_in

CPU = torch.device("cpu")
MB = 2**20


@dataclass(slots=True)
class Slotted:
    """Holds a tensor without a __dict__."""

    tensor: torch.Tensor


class Holder:
    """Holds tensors in all the ways in which our runners do."""

    def __init__(self) -> None:
        self.module = nn.Linear(256, 300, bias=False).requires_grad_(False).bfloat16()
        self.tied = self.module.weight
        self.view = self.module.weight[10:20]
        self.slotted = [Slotted(torch.randn(70, 100))]
        secret = torch.arange(9000)
        self.closure = lambda: secret
        self.partial = partial(torch.add, torch.randn(5000).half())
        with torch.inference_mode():
            self.inferred = {"a": (torch.randn(3, 5000),)}
        self.small = torch.ones(8)

    def tensors(self) -> list[torch.Tensor]:
        return [
            self.module.weight, self.view, self.slotted[0].tensor, self.closure(), self.partial.args[0],
            self.inferred["a"][0],
        ]  # fmt: skip


def copies(holder: Holder) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in holder.tensors()]


def are_equal(holder: Holder, before: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(holder.tensors(), before, strict=True))


def test_all_tensors_that_objects_hold_are_found_once_with_all_their_views() -> None:
    holder = Holder()
    found = storages_in((holder, holder.module), CPU, 16_384)
    assert sorted(held.storage.nbytes() for held in found) == sorted(
        [153_600, 28_000, 72_000 - 72_000 + 72_000, 60_000]
    )
    weight = next(held for held in found if held.storage.nbytes() == 153_600)
    assert {id(tensor) for tensor in weight.tensors} == {id(holder.module.weight), id(holder.view)}


def test_weights_are_the_same_at_the_same_addresses_and_their_memory_is_free_meanwhile(driver: StandInDriver) -> None:
    holder, arena = Holder(), VirtualArena(CPU, driver)
    before, left = copies(holder), driver.left
    arena.adopt((holder,))
    assert arena.is_whole and arena.num_bytes >= 153_600 and are_equal(holder, before)
    assert driver.mapped_bytes == left - driver.left >= arena.num_bytes
    addresses = [tensor.data_ptr() for tensor in holder.tensors()]
    for _ in range(3):
        arena.sleep()
        assert driver.mapped_bytes == 0 and driver.left == left and arena.host_bytes > 0
        arena.wake()
        assert [tensor.data_ptr() for tensor in holder.tensors()] == addresses and are_equal(holder, before)
    assert holder.tied is holder.module.weight and holder.module(torch.ones(1, 256).bfloat16()).shape == (1, 300)
    arena.close()
    assert driver.left == left and driver.card.num_pinned() == 0


def test_a_second_sleep_copies_only_what_has_changed(driver: StandInDriver) -> None:
    holder, arena = Holder(), VirtualArena(CPU, driver)
    arena.adopt((holder,))
    arena.sleep()
    arena.wake()
    holder.slotted[0].tensor.fill_(7.0)  # nobody should
    arena.sleep()
    arena.wake()
    assert (holder.slotted[0].tensor == 7.0).all()
    block = arena._copy.blocks[0]  # type: ignore[union-attr]
    arena.sleep()
    with torch.inference_mode():
        block[1000] += 1
    with pytest.raises(LostWeights):
        arena.wake()


def test_torch_s_allocator_serves_where_the_driver_cannot() -> None:
    holder, arena = Holder(), Arena(CPU)
    before = copies(holder)
    arena.adopt((holder,))
    pool = arena.take((4, 1000), torch.float32)
    pool.fill_(3.0)
    for _ in range(2):
        arena.sleep()
        assert holder.module.weight.untyped_storage().nbytes() == 0 == pool.untyped_storage().nbytes()
        arena.wake()
        assert are_equal(holder, before) and (pool == 0).all() and pool.shape == (4, 1000)
    assert not arena.keeps_addresses and not arena.is_elastic


def test_pools_are_zeros_and_grow_and_shrink_in_place(driver: StandInDriver) -> None:
    arena = VirtualArena(CPU, driver)
    pool = arena.take((32, 2, 65536), torch.uint8, first_bytes=10 * 2 * 65536)
    first = pool[:10]
    assert (first == 0).all() and driver.mapped_bytes == 10 * 2 * 65536
    first.fill_(9)
    arena.fit(pool, 20 * 2 * 65536)
    assert (pool[:10] == 9).all() and (pool[10:20] == 0).all()
    arena.fit(pool, 5 * 2 * 65536)
    assert (pool[:5] == 9).all() and driver.mapped_bytes == 5 * 2 * 65536
    arena.sleep()
    arena.fit(pool, 7 * 2 * 65536)
    assert driver.mapped_bytes == 0
    arena.wake()
    assert (pool[:7] == 0).all() and driver.mapped_bytes == 7 * 2 * 65536
    assert arena.take((3, 0, 5), torch.float16).shape == (3, 0, 5)
    with pytest.raises(torch.OutOfMemoryError):
        driver.left = 65536
        arena.fit(pool, 32 * 2 * 65536)
    assert driver.mapped_bytes == 7 * 2 * 65536 and (pool[:7] == 0).all()


def test_what_does_not_fit_when_it_returns_stays_asleep_and_returns_later(driver: StandInDriver) -> None:
    holder, arena = Holder(), VirtualArena(CPU, driver)
    before = copies(holder)
    arena.adopt((holder,))
    pool = arena.take((MB,), torch.uint8)
    arena.sleep()
    driver.left = MB
    with pytest.raises(torch.OutOfMemoryError):
        arena.wake()
    assert arena.is_asleep and driver.left == MB and driver.mapped_bytes == 0
    driver.left = 8 * MB
    arena.wake()
    assert are_equal(holder, before) and (pool == 0).all()


def test_weights_move_by_host_memory_where_the_card_does_not_hold_them_twice(
    driver: StandInDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card has room when what torch had taken is freed, here all at once."""
    holder, arena = Holder(), VirtualArena(CPU, driver)
    before = copies(holder)
    driver.left = 2 * 65536
    monkeypatch.setattr(moving_module, "BATCH", 100_000)
    monkeypatch.setattr(moving_module, "return_freed", lambda device: setattr(driver, "left", 8 * MB))
    with pytest.raises(torch.OutOfMemoryError):
        driver.left = 0
        VirtualArena(CPU, driver).adopt((Holder(),))
    driver.left = 3 * 65536
    arena.adopt((holder,))
    assert are_equal(holder, before)
    arena.sleep()
    arena.wake()
    assert are_equal(holder, before)


def test_addresses_are_free_when_nobody_has_tensors_on_them(driver: StandInDriver) -> None:
    region = Region(driver, 5 * 65536, CPU)
    region.fit(5 * 65536)
    tensor = region.bytes[65536:]
    del region
    gc.collect()
    assert driver.mapped_bytes == 0
    del tensor
    gc.collect()


def test_what_is_unmapped_cannot_be_read(driver: StandInDriver) -> None:
    """The control of the tests above: a stand-in that leaves memory in place would prove nothing."""
    region = Region(driver, 65536, CPU)
    region.fit(65536)
    address = region.bytes.data_ptr()
    assert ctypes.string_at(address + 5, 1) == b"\xa5"
    region.fit(0)
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(address + 5, 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


def test_a_driver_that_is_missing_or_refuses_is_told(driver_library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDriver, match="cannot open"):
        MemoryDriver("libnone.so.1", 0)
    with pytest.raises(NoDriver, match="cuInit"):
        MemoryDriver(str(ctypes.util.find_library("c")), 0)
    driver: Any = StandInDriver(driver_library)
    with pytest.raises(DriverError, match="cuMemAddressReserve: invalid value"):
        driver.reserve(5)
