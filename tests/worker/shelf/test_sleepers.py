"""Models on a GPU that leave for host memory and return, with engines that take no memory."""

from typing import Any, cast

import pytest
import torch

from tests.worker.shelf.stand_ins import MB, ShelfBench, StandInEngine, StandInMemory, opened
from worker.engine.interface import AnyEngine
from worker.gpu_memory.arena import LostWeights
from worker.shelf.changes import LoadFailed
from worker.shelf.view import Waiting
from worker.shelf.warm.models import WarmModels
from worker.shelf.warm.sleepers import Sleepers


class StandInSleeping:
    """Of an engine of 100 MB."""

    def __init__(self, engine: StandInEngine) -> None:
        self.engine = engine
        self.warm_bytes, self.copy_bytes = 100 * MB, 0
        self.is_asleep = False
        self.fault: Exception | None = None
        self.num_copies = 0
        self.kv_bytes: int | None = 0

    def drop_copy(self) -> None:
        assert not self.is_asleep
        self.copy_bytes = 0

    def sleep(self) -> bool:
        if self.fault is not None:
            raise self.fault
        self.num_copies += not self.copy_bytes
        self.is_asleep, self.copy_bytes = True, self.warm_bytes
        self.engine.memory.used -= 100 * MB
        return True

    def wake(self, kv_bytes: int | None) -> None:
        if self.fault is not None:
            raise self.fault
        self.is_asleep, self.kv_bytes = False, kv_bytes
        self.engine.memory.used += 100 * MB


class GpuBench(ShelfBench):
    """A shelf whose engines can sleep, as on a GPU."""

    def __init__(self, most_bytes: int = 1000 * MB, max_loaded: int | None = 1) -> None:
        super().__init__(max_loaded=max_loaded)
        self.memory.holds_kept, self.memory.device = False, "cuda:0"
        self.sleepers = Sleepers(most_bytes)
        self.shelf.warm = WarmModels(self.sleepers, most_bytes)
        self.shelf.opener._memory = cast(Any, OnOneGpu(self.memory))

    def _open(self, *args: Any) -> AnyEngine:
        engine: Any = super()._open(*args)
        engine.sleeping = StandInSleeping(engine)
        return cast(AnyEngine, engine)

    def sleeping(self, queue: str) -> StandInSleeping:
        """Of the newest engine of this model."""
        return cast(Any, next(each for each in reversed(self.engines) if each.queue == queue)).sleeping  # type: ignore[no-any-return]


class OnOneGpu:
    """The memory, for an opener that need not take turns."""

    def __init__(self, memory: StandInMemory) -> None:
        self._memory, self.device = memory, "cpu"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def test_a_model_that_left_returns_without_being_opened_again() -> None:
    bench = GpuBench()
    bench.swap("a")
    assert bench.place("a").is_kept and bench.place("a").status == "loaded"
    bench.swap("b", "a")
    assert bench.sleeping("a").is_asleep and bench.place("a").status == "warm" and bench.loaded() == ["b"]
    assert bench.memory.used == 100 * MB and bench.shelf.report("w", {}).warm_bytes == 100 * MB
    assert opened(bench.swap("a", "b")) == ["a"]
    assert len(bench.engines) == 2 and not bench.sleeping("a").is_asleep and bench.sleeping("a").kv_bytes
    bench.swap("b", "a")
    assert bench.sleeping("a").num_copies == 1  # what was copied once need not be copied again
    assert bench.place("a").kept_bytes == 100 * MB and not any(engine.is_closed for engine in bench.engines)


def test_its_next_load_is_expected_to_take_what_returning_took() -> None:
    bench = GpuBench()
    bench.swap("a")
    bench.swap("b", "a")
    bench.swap("a", "b")
    times = bench.shelf.times._seconds
    assert {("a", False), ("a", True), ("b", False)} == set(times)


@pytest.mark.parametrize(("most_mb", "asleep"), [(250, "bc"), (150, "c"), (99, "")])
def test_memory_for_those_that_left_is_bounded_and_the_first_to_leave_is_dropped(most_mb: int, asleep: str) -> None:
    bench = GpuBench(most_mb * MB)
    bench.swap("a")
    for left, to in ("ab", "bc", "cd"):
        bench.swap(to, left)
        copies = [bench.sleeping(name).copy_bytes for name in "abc"[: "abcd".index(to)] if not is_closed(bench, name)]
        assert sum(copies) <= most_mb * MB
    assert "".join(name for name in "abc" if bench.sleeping(name).is_asleep and not is_closed(bench, name)) == asleep
    assert "".join(name for name in "abc" if bench.place(name).status == "warm") == asleep


def is_closed(bench: GpuBench, queue: str) -> bool:
    return bench.sleeping(queue).engine.is_closed


def test_a_copy_of_a_loaded_model_goes_before_one_that_left() -> None:
    bench = GpuBench(200 * MB, max_loaded=2)
    bench.swap("a")
    bench.swap("b", "a")
    bench.swap("a", "b")
    assert bench.sleeping("a").copy_bytes == 100 * MB  # and it is loaded
    bench.swap("c")
    bench.swap("d", "c")
    assert bench.sleeping("a").copy_bytes == 0
    assert bench.place("b").status == "warm" and bench.place("c").status == "warm"


def test_one_that_cannot_leave_is_closed_and_loaded_from_its_files() -> None:
    bench = GpuBench()
    bench.swap("a")
    bench.sleeping("a").fault = RuntimeError("cuMemUnmap: invalid value")
    bench.swap("b", "a")
    assert is_closed(bench, "a") and bench.place("a").status == "cold"
    assert opened(bench.swap("a", "b")) == ["a"] and len(bench.engines) == 3


def test_one_that_finds_no_room_sleeps_on_and_is_tried_again() -> None:
    bench = GpuBench()
    bench.swap("a")
    bench.swap("b", "a")
    bench.sleeping("a").fault = torch.OutOfMemoryError("the GPU has no 64 MiB left")
    (failed,) = [change for change in bench.swap("a", "b") if isinstance(change, LoadFailed)]
    assert failed.may_retry and bench.place("a").kept_bytes == 100 * MB and not is_closed(bench, "a")
    bench.sleeping("a").fault = None
    bench.landed({"b": Waiting(jobs=1)})  # what had left returns
    bench.now += 10
    assert opened(bench.swap("a", "b")) == ["a"] and len(bench.engines) == 2


def test_weights_that_are_not_the_same_are_read_from_files() -> None:
    bench = GpuBench()
    bench.swap("a")
    bench.swap("b", "a")
    bench.sleeping("a").fault, old = LostWeights("not those that left"), bench.sleeping("a").engine
    assert opened(bench.swap("a", "b")) == ["a"]
    assert old.is_closed and len(bench.engines) == 3


def test_experts_in_host_memory_are_counted_beside_the_gpu() -> None:
    bench = GpuBench(max_loaded=None)
    bench.mapped = 300 * MB
    assert opened(bench.swap("a")) == ["a"]
    assert bench.place("a").weights_bytes == 100 * MB  # of the GPU
    for _ in range(2):  # not known before it was opened, and then known
        (failed,) = [change for change in bench.swap("b") if isinstance(change, LoadFailed)]
        assert "its experts take 0.28 GiB of host memory, those of other models 0.28, and 0.47 GiB is" in failed.fault
        assert failed.may_retry and bench.loaded() == ["a"] and bench.sleeping("b").is_asleep
    assert opened(bench.swap("b", "a")) == ["b"]
