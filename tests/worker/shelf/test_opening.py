"""Engines are opened in a thread, with a number of threads of their own."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from tests.worker.shelf.stand_ins import StandInEngine, StandInMemory
from worker.engine.interface import AnyEngine
from worker.progress import OnProgress
from worker.shelf.memory import MachineMemory
from worker.shelf.opening import Landed, Opener, compute_with, fault_of


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def landed(opener: Opener, woken: threading.Event) -> Landed:
    assert woken.wait(10)
    woken.clear()
    outcome = opener.take()
    assert outcome is not None
    return outcome


@pytest.mark.usefixtures("two_threads")
def test_each_engine_has_its_own_number_of_threads() -> None:
    woken, memory = threading.Event(), StandInMemory()
    opener = Opener(memory, num_threads=2, wake=woken.set)

    def of_a_small_model(on_progress: OnProgress) -> AnyEngine:
        assert torch.get_num_threads() == 2, "the default, whatever the last engine has set"
        torch.set_num_threads(1)
        return cast(AnyEngine, StandInEngine("a", memory, 0))

    for _ in range(2):
        opener.begin([], of_a_small_model)
        assert landed(opener, woken).num_threads == 1
        assert torch.get_num_threads() == 2, "the loop's own thread goes on as before"
    compute_with(1)
    assert torch.get_num_threads() == 1


def test_the_progress_of_a_load_can_be_read_meanwhile() -> None:
    woken, memory, seen, go = threading.Event(), StandInMemory(), threading.Event(), threading.Event()
    opener = Opener(memory, num_threads=1, wake=woken.set)

    def slow(on_progress: OnProgress) -> AnyEngine:
        on_progress("weights", 0.25)
        seen.set()
        assert go.wait(10)
        return cast(AnyEngine, StandInEngine("a", memory, 0))

    opener.begin([], slow)
    assert seen.wait(10)
    assert opener.is_busy
    assert opener.progress == ("weights", 0.25)
    assert opener.take() is None
    go.set()
    assert landed(opener, woken).grown_bytes == 100 * 10**6
    assert not opener.is_busy


def test_what_a_failed_load_had_taken_is_freed() -> None:
    woken, memory = threading.Event(), StandInMemory()
    freed = threading.Event()
    opener = Opener(memory, num_threads=1, wake=woken.set)

    class Weights:
        def __del__(self) -> None:
            freed.set()

    def fails(on_progress: OnProgress) -> AnyEngine:
        weights: Any = Weights()
        weights.cycle = weights
        try:
            raise OSError("a shard is missing")
        except OSError as error:
            raise MemoryError from error

    memory.return_freed = MachineMemory().return_freed  # type: ignore[method-assign]
    opener.begin([], fails)
    assert landed(opener, woken).fault is not None
    assert freed.is_set()


@pytest.mark.parametrize(
    ("error", "may_retry", "is_final"),
    [
        (MemoryError(), True, False),
        (OSError(12, "Cannot allocate memory"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory", 2), True, False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700), True, True),
        (ValueError("max_model_len 10 needs more KV memory"), False, False),
        (OSError("there is no config.json"), False, False),
        (SystemExit(2), False, False),
    ],
    ids=["memory", "mmap", "gpu", "cpu", "accelerator", "lost", "value", "file", "exit"],
)
def test_a_fault_says_whether_another_attempt_may_help(error: BaseException, may_retry: bool, is_final: bool) -> None:
    fault = fault_of(error)
    assert (fault.may_retry, fault.is_final) == (may_retry, is_final)
    assert fault.text


def test_on_a_gpu_steps_are_recorded_only_while_the_loop_waits_between_its_own() -> None:
    woken, memory = threading.Event(), StandInMemory()
    memory.device = "cuda:0"
    opener = Opener(memory, num_threads=1, wake=woken.set)
    is_stepping, seen = threading.Event(), []

    class Recorded(StandInEngine):
        def warm_up(self, on_progress: OnProgress) -> None:
            for number in range(3):
                on_progress("recording", number / 3)
                seen.append(is_stepping.is_set())

    opener.begin([], lambda _: cast(AnyEngine, Recorded("a", memory, 0)))
    while opener.take() is None:
        is_stepping.set()  # a step of another model
        woken.wait(0.001)
        is_stepping.clear()
        opener.turn.give()
    assert seen == [False] * 3


def test_an_engine_that_cannot_be_warmed_up_is_closed() -> None:
    woken, memory = threading.Event(), StandInMemory()
    opener = Opener(memory, num_threads=1, wake=woken.set)

    class TooLarge(StandInEngine):
        def warm_up(self, on_progress: OnProgress) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    opener.begin([], lambda _: cast(AnyEngine, TooLarge("a", memory, 0)))
    outcome = landed(opener, woken)
    assert outcome.engine is None
    assert outcome.fault is not None
    assert memory.used == 0


def test_a_load_that_loses_the_device_lands_though_nothing_can_be_freed_any_more() -> None:
    woken, memory = threading.Event(), StandInMemory()
    opener = Opener(memory, num_threads=1, wake=woken.set)
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    def is_lost() -> None:
        raise lost

    def loses_it(on_progress: OnProgress) -> AnyEngine:
        memory.return_freed = is_lost  # type: ignore[method-assign]
        raise lost

    opener.begin([], loses_it)
    outcome = landed(opener, woken)
    assert outcome.fault is not None and outcome.fault.is_final
