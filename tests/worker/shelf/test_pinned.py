"""Models whose place is held by pinned ones: they are not loaded, and it is said why."""

from dataclasses import replace
from math import inf

import pytest

from tests.worker.shelf.stand_ins import MB, ShelfBench, opened
from worker.shelf.changes import LoadFailed
from worker.shelf.view import Swap, Waiting

ONE_WAITS = Waiting(jobs=1, tier="default", oldest_s=1.0)
HELD = "its place is held by pinned models: a"


def pinned(**limits: int | None) -> ShelfBench:
    """`a` is loaded and pinned."""
    bench = ShelfBench(**limits)  # type: ignore[arg-type]
    bench.decision = None
    bench.advance()
    bench.landed()
    bench.shelf.order("a", "pin")
    return bench


def test_a_model_whose_place_is_held_says_by_which_and_is_loaded_after_an_unpin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = pinned(max_loaded=1)
    for _ in range(3):
        assert bench.advance({"b": ONE_WAITS}) == []
    report = bench.shelf.report("w", {})
    entry = report.entries[1]
    assert (entry.status, entry.why, entry.eta_s, entry.may_retry) == ("cold", HELD, None, True)
    assert report.why == f"b waits: {HELD}"
    assert bench.shelf.etas()["b"].soonest_s == inf
    assert caplog.messages.count(f"b cannot be loaded: {HELD}") == 1
    bench.shelf.order("a", "unpin")
    bench.advance({"b": ONE_WAITS})
    bench.shelf.closed("a")
    bench.advance({"b": ONE_WAITS})
    assert opened(bench.landed({"b": ONE_WAITS})) == ["b"]
    assert bench.shelf.report("w", {}).entries[1].why == ""


def test_an_unpin_shows_at_once() -> None:
    bench = pinned(max_loaded=1)
    bench.advance({"b": ONE_WAITS})
    bench.shelf.order("a", "unpin")
    assert bench.shelf.report("w", {}).entries[1].why == ""


def test_weights_that_do_not_fit_beside_pinned_models_are_not_tried() -> None:
    bench = pinned(max_loaded=None)
    bench.place("b").size = replace(bench.place("b").size, weights=950 * MB)
    bench.advance({"b": ONE_WAITS})
    assert bench.shelf.report("w", {}).entries[1].why == HELD and len(bench.engines) == 1


def test_a_model_larger_than_the_device_fails_with_both_sizes() -> None:
    bench = ShelfBench()
    bench.place("b").size = replace(bench.place("b").size, weights=2000 * MB)
    bench.decision = Swap("b", (), "finish", "it waits", 1.0)
    bench.advance({"b": ONE_WAITS})
    (failed,) = bench.landed({"b": ONE_WAITS})
    assert isinstance(failed, LoadFailed)
    assert "it needs 1.87 GiB with the least keys and values, and 0.93 GiB of memory are left" in failed.fault


def test_an_order_to_load_ends_where_pinned_models_hold_the_place() -> None:
    bench = pinned(max_loaded=1)
    bench.shelf.order("b", "load")
    bench.advance()
    bench.shelf.order("a", "unpin")
    assert bench.advance() == [] and bench.loaded() == ["a"]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_model_that_has_no_place_beside_the_pinned_ones_is_not_pinned(
    is_loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = pinned(max_loaded=1) if is_loaded else ShelfBench()
    bench.shelf.order("a", "pin")
    bench.shelf.order("b", "pin")
    assert [entry.is_pinned for entry in bench.shelf.report("w", {}).entries] == [True, False, False, False]
    assert f"b is not pinned: {HELD}" in caplog.messages


def test_an_unpin_ends_the_order_to_load_that_the_pin_was() -> None:
    bench = ShelfBench()
    bench.decision = None
    bench.advance()
    bench.landed()
    bench.shelf.order("b", "pin")
    bench.shelf.order("b", "unpin")
    assert bench.advance() == [] and bench.loaded() == ["a"]


def test_without_memory_for_warm_weights_no_model_is_warm() -> None:
    bench = ShelfBench(warm_bytes=0)
    bench.advance()
    bench.landed()
    bench.gate = bench.woken.__class__()
    bench.decision = Swap("b", ("a",), "finish", "it waits", 1.0)
    bench.advance({"b": ONE_WAITS})
    bench.shelf.closed("a")
    bench.advance({"b": ONE_WAITS})
    assert bench.shelf.report("w", {}).entries[0].status == "cold"
    bench.gate.set()
    assert opened(bench.landed({"b": ONE_WAITS})) == ["b"]
