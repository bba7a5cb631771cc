"""The shelf carries out what the policy decides: engines leave and come, and nothing of a fault brings others down."""

import threading

import pytest

from common.shelf.table import TableModel
from tests.worker.shelf.stand_ins import MB, ShelfBench, opened
from worker.shelf.changes import Leaving, LoadFailed, Opened, Stayed
from worker.shelf.view import Running, Stay, Swap, Waiting

ONE_WAITS = Waiting(jobs=1, tier="default", oldest_s=1.0)


def started(bench: ShelfBench) -> ShelfBench:
    """With the first model loaded, because nothing waits."""
    bench.advance()
    assert opened(bench.landed()) == ["a"]
    return bench


def test_the_first_of_the_table_is_loaded_while_nothing_waits() -> None:
    bench = started(ShelfBench())
    assert bench.loaded() == ["a"]
    bench.advance()
    assert bench.shelf.plan is None, "one is enough"


def test_pinned_models_are_loaded_first_and_all_of_them() -> None:
    pinned = TableModel(("c",), "/models/c", is_pinned=True), TableModel(("d",), "/models/d", is_pinned=True)
    bench = ShelfBench(TableModel(("a",), "/models/a"), *pinned, max_loaded=None)
    bench.decision = None
    bench.advance()
    assert opened(bench.landed()) == ["c"]
    assert opened(bench.landed()) == ["d"]
    bench.advance()
    assert bench.shelf.plan is None


def test_what_waits_at_the_start_decides_instead() -> None:
    bench = ShelfBench()
    assert opened(bench.swap("b")) == ["b"]
    bench.advance()
    assert bench.loaded() == ["b"]


def test_a_swap_closes_the_old_engine_before_the_new_one_is_opened() -> None:
    bench = started(ShelfBench())
    told = bench.swap("b", "a")
    assert told[0] == Leaving("a", True, "it waits", "b", 1.0)
    assert opened(told) == bench.loaded() == ["b"]
    assert bench.engines[0].is_closed
    assert bench.memory.used == 100 * MB
    assert bench.place("a").status == "warm"


def test_nothing_is_closed_before_the_loop_has_let_go_of_it() -> None:
    bench = started(ShelfBench())
    bench.decision = Swap("b", ("a",), "pause", "it waits", 1.0)
    (closing,) = bench.advance({"b": ONE_WAITS}, {"a": Running(2, 9.0, "default")})
    assert isinstance(closing, Leaving)
    assert not closing.finishes
    for _ in range(3):
        assert bench.advance({"b": ONE_WAITS}) == []
    assert not bench.engines[0].is_closed


def test_answers_that_may_finish_and_take_longer_than_expected_are_paused() -> None:
    bench = started(ShelfBench())
    running = {"a": Running(2, 0.5, "default")}
    bench.decision = Swap("b", ("a",), "finish", "it waits", 1.0)
    assert [change.finishes for change in bench.advance({"b": ONE_WAITS}, running) if isinstance(change, Leaving)] == [
        True
    ]
    bench.now += 2.9
    assert bench.advance({"b": ONE_WAITS}, running) == []
    bench.now += 0.2
    (again,) = bench.advance({"b": ONE_WAITS}, running)
    assert isinstance(again, Leaving)
    assert not again.finishes
    assert bench.advance({"b": ONE_WAITS}, running) == [], "it is said once"


@pytest.mark.parametrize("is_let_go", [False, True])
def test_a_model_stays_when_what_waited_for_the_other_one_is_cancelled(is_let_go: bool) -> None:
    bench = started(ShelfBench())
    bench.decision = Swap("b", ("a",), "finish", "it waits", 1.0)
    bench.advance({"b": ONE_WAITS}, {"a": Running(1, 0.5, "default")})
    bench.decision = Stay("nothing waits")
    if is_let_go:
        bench.shelf.closed("a")
    (change,) = bench.advance()
    assert change == (Opened("a", bench.engines[0], 1) if is_let_go else Stayed("a"))  # type: ignore[arg-type]
    assert bench.loaded() == ["a"]
    assert not bench.engines[0].is_closed


def test_others_go_on_while_a_model_is_loaded() -> None:
    bench = started(ShelfBench(max_loaded=2))
    bench.gate = threading.Event()
    bench.decision = Swap("b", (), "finish", "it fits", 1.0)
    assert bench.advance({"b": ONE_WAITS}, {"a": Running(1, 5.0, "default")}) == []
    assert bench.place("b").status == "loading"
    assert bench.advance({"b": ONE_WAITS}) == []
    bench.gate.set()
    assert opened(bench.landed()) == ["b"]
    assert bench.loaded() == ["a", "b"]
    assert not bench.engines[0].is_closed


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_leaves_the_old_model_serving_and_is_tried_again(fault: BaseException) -> None:
    bench = started(ShelfBench(max_loaded=2))
    bench.faults["b"] = fault
    (failed,) = bench.swap("b")
    assert isinstance(failed, LoadFailed)
    assert failed.may_retry
    assert bench.loaded() == ["a"]
    assert not bench.engines[0].is_closed
    assert bench.place("b").status == "failed"
    bench.advance({"b": ONE_WAITS})
    view = bench.views[-1].models[1]
    assert not view.can_load
    assert view.bytes == 1000 * MB, "it did not fit beside another one: next time it gets the device for itself"
    bench.now += 5.0
    bench.advance({"b": ONE_WAITS})
    assert bench.views[-1].models[1].can_load


def test_torch_s_error_for_a_full_gpu_is_one_of_memory() -> None:
    torch = pytest.importorskip("torch")
    bench = started(ShelfBench(max_loaded=2))
    bench.faults["b"] = torch.OutOfMemoryError("CUDA out of memory")
    (failed,) = bench.swap("b")
    assert isinstance(failed, LoadFailed)
    assert failed.may_retry
    assert "the GPU has no room for it" in failed.fault


def test_the_old_model_comes_back_when_the_one_for_which_it_left_cannot_be_loaded() -> None:
    bench = started(ShelfBench())
    bench.faults["b"] = MemoryError()
    *_, failed = bench.swap("b", "a")
    assert isinstance(failed, LoadFailed)
    assert opened(bench.landed({"b": ONE_WAITS})) == ["a"]
    assert bench.loaded() == ["a"]
    assert bench.memory.used == 100 * MB


def test_the_pauses_between_attempts_grow() -> None:
    bench = started(ShelfBench(max_loaded=2))
    bench.faults["b"] = MemoryError()
    pauses = []
    for _ in range(8):
        bench.swap("b")
        pauses.append(bench.place("b").retry_at - bench.now)
        bench.now += pauses[-1]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_a_fault_that_no_retry_mends_waits_for_an_order() -> None:
    bench = started(ShelfBench(max_loaded=2))
    bench.faults["b"] = ValueError("its config.json is not JSON")
    (failed,) = bench.swap("b")
    assert failed == LoadFailed("b", "its config.json is not JSON", may_retry=False)
    bench.now += 1e9
    bench.advance({"b": ONE_WAITS})
    assert not bench.views[-1].models[1].can_load
    entry = bench.shelf.report("w", {}).entries[1]
    assert (entry.status, entry.fault, entry.may_retry) == ("failed", "its config.json is not JSON", False)
    bench.shelf.order("b", "load")
    bench.advance({"b": ONE_WAITS})
    assert bench.views[-1].models[1].can_load


def test_a_lost_gpu_ends_the_worker() -> None:
    torch = pytest.importorskip("torch")
    bench = started(ShelfBench(max_loaded=2))
    bench.faults["b"] = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        bench.swap("b")


def test_a_model_that_does_not_fit_is_not_tried() -> None:
    bench = started(ShelfBench(max_loaded=2))
    bench.memory.others = 850 * MB
    (failed,) = bench.swap("b")
    assert isinstance(failed, LoadFailed)
    assert "0.05 GiB of memory are left" in failed.fault
    assert len(bench.engines) == 1
    assert bench.loaded() == ["a"]


def test_files_that_models_read_at_each_step_are_memory_that_they_take() -> None:
    """The system counts their pages as available, and a second model's would push them out."""
    bench = ShelfBench(max_loaded=None)
    bench.mapped = 300 * MB
    for queue, out in (("a", ()), ("b", ("a",)), ("c", ())):
        bench.swap(queue, *out)
        assert bench.place(queue).weights_bytes == 400 * MB
    (failed,) = [change for change in bench.swap("a") if isinstance(change, LoadFailed)]
    assert "it needs 0.29 GiB with the least keys and values, and 0.19 GiB of memory are left" in failed.fault
    assert opened(bench.swap("a", "b")) == ["a"]


def test_memory_returns_to_the_same_level_after_a_hundred_swaps() -> None:
    bench = started(ShelfBench())
    for number in range(100):
        before, after = ("a", "b") if number % 2 == 0 else ("b", "a")
        bench.swap(after, before)
    assert bench.memory.used == 100 * MB
    assert [engine.is_closed for engine in bench.engines] == [True] * 100 + [False]
    assert bench.shelf.num_swaps == 100


def test_the_work_of_a_model_counts_from_its_load() -> None:
    bench = started(ShelfBench())
    busy = {"a": Running(1, 5.0, "default")}
    bench.advance({}, busy)
    bench.now += 3.0
    bench.advance({}, busy)
    bench.now += 4.0
    bench.advance()
    bench.now += 2.0
    bench.advance()
    view = bench.views[-1].models[0]
    assert (view.work_s, view.idle_s) == (7.0, 2.0)
    bench.swap("b", "a")
    bench.swap("a", "b")
    bench.advance()
    assert bench.views[-1].models[0].work_s == 0.0


def test_what_a_swap_took_is_what_the_next_one_is_expected_to_take() -> None:
    bench = started(ShelfBench())
    assert bench.shelf.swap_in_s(bench.place("b")) >= 1.0, "a guess"
    bench.swap("b", "a")
    bench.swap("a", "b")
    assert bench.shelf.swap_in_s(bench.place("b")) < 1.0
    assert bench.shelf.last_swap.startswith("b -> a in 0.")


def test_too_little_memory_on_an_empty_device_is_final_after_some_attempts() -> None:
    bench = ShelfBench()
    bench.faults["b"] = MemoryError()
    told = []
    for _ in range(3):
        (failed,) = bench.swap("b")
        assert isinstance(failed, LoadFailed)
        told.append(failed.may_retry)
        bench.now += 1000.0
    assert told == [True, True, False]
    assert bench.shelf.report("w", {}).entries[1].may_retry is False
    bench.faults.clear()
    bench.shelf.order("b", "load")
    assert opened(bench.swap("b")) == ["b"]
