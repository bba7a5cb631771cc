"""What operators and requests want of a model: load, unload, pin, keep_alive."""

import pytest

from common.shelf.table import TableModel
from tests.worker.shelf.stand_ins import MB, ShelfBench, StandInKeep, opened
from worker.shelf.changes import Leaving, Opened
from worker.shelf.view import Running, Waiting

ONE_WAITS = Waiting(jobs=1, tier="default", oldest_s=1.0)
A, B = TableModel(("a",), "/models/a", keep_alive_s=60.0), TableModel(("b",), "/models/b")


def started(bench: ShelfBench) -> ShelfBench:
    bench.advance()
    bench.landed()
    return bench


def leaves(bench: ShelfBench) -> list[str]:
    """The models that leave now and have left then."""
    told = bench.advance()
    queues = [change.queue for change in told if isinstance(change, Leaving)]
    for queue in queues:
        bench.shelf.closed(queue)
    if queues:
        bench.advance()
        bench.landed()
    return queues


def test_an_idle_model_leaves_after_its_keep_alive() -> None:
    bench = started(ShelfBench(A, B))
    bench.now += 59.0
    assert leaves(bench) == []
    bench.now += 1.0
    assert leaves(bench) == ["a"]
    assert bench.loaded() == []
    assert bench.place("a").status == "warm"
    assert leaves(bench) == []


@pytest.mark.parametrize(("keep_alive_s", "leaves_after"), [(5.0, 5.0), (0.0, 0.0), (-1.0, None), (None, 60.0)])
def test_the_latest_request_says_how_long_its_model_stays(
    keep_alive_s: float | None, leaves_after: float | None
) -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.keep_alive("a", keep_alive_s)
    if leaves_after is None:
        bench.now += 1e9
        assert leaves(bench) == []
        return
    if leaves_after:
        bench.now += leaves_after - 0.1
        assert leaves(bench) == []
    bench.now += 0.1
    assert leaves(bench) == ["a"]


def test_a_model_with_work_is_not_idle() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.keep_alive("a", 0.0)
    assert bench.advance({"a": ONE_WAITS}) == []
    assert bench.advance({}, {"a": Running(1, 1.0, "default")}) == []
    assert leaves(bench) == ["a"]


def test_a_pinned_model_is_never_unloaded_because_it_is_idle() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("a", "pin")
    bench.now += 1e9
    assert leaves(bench) == []
    assert bench.shelf.report("w", {}).entries[0].unload_at == 0.0
    bench.shelf.order("a", "unpin")
    assert leaves(bench) == ["a"]


def test_work_that_comes_before_an_idle_model_has_left_keeps_it() -> None:
    bench = started(ShelfBench(A, B))
    bench.now += 60.0
    assert [type(change) for change in bench.advance()] == [Leaving]
    bench.shelf.closed("a")
    (change,) = bench.advance({"a": ONE_WAITS})
    assert isinstance(change, Opened)


def test_the_policy_sees_a_load_order_until_it_is_met() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("b", "load", keep_alive_s=5.0)
    bench.now += 2.0
    bench.advance()
    assert bench.views[-1].models[1].ordered_s == 2.0
    bench.swap("b", "a")
    bench.advance()
    assert bench.views[-1].models[1].ordered_s is None
    bench.now += 5.0
    assert leaves(bench) == ["b"]


def test_an_unload_order_pauses_what_runs_and_holds_the_model_off_for_a_while() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("a", "unload")
    (closing,) = bench.advance({}, {"a": Running(2, 9.0, "default")})
    assert isinstance(closing, Leaving)
    assert not closing.finishes
    bench.shelf.closed("a")
    bench.advance({"a": ONE_WAITS})
    bench.landed({"a": ONE_WAITS})
    bench.advance({"a": ONE_WAITS})
    assert not bench.views[-1].models[0].can_load
    bench.now += 30.0
    bench.advance({"a": ONE_WAITS})
    assert bench.views[-1].models[0].can_load


def test_an_unloaded_pinned_model_is_no_longer_pinned() -> None:
    bench = started(ShelfBench(TableModel(("a",), "/models/a", is_pinned=True), B))
    bench.shelf.order("a", "unload")
    assert leaves(bench) == ["a"]
    assert leaves(bench) == []
    assert bench.loaded() == []


def test_unload_with_keep_alive_0_lets_running_answers_end() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("a", "unload", keep_alive_s=0.0)
    assert bench.advance({}, {"a": Running(1, 1.0, "default")}) == []
    assert leaves(bench) == ["a"]


def test_an_order_for_a_model_of_another_table_is_ignored() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("z", "load")
    assert bench.advance() == []


def test_a_pinned_model_is_loaded_by_the_order() -> None:
    bench = started(ShelfBench(A, B))
    bench.shelf.order("b", "pin")
    bench.advance()
    assert bench.views[-1].models[1].ordered_s == 0.0
    assert bench.views[-1].models[1].is_pinned


def test_the_report_shows_where_each_model_is() -> None:
    bench = started(ShelfBench(A, B, max_loaded=2))
    bench.now += 10.0
    report = bench.shelf.report("omni-1", {"b": 3})
    a, b = report.entries
    assert (report.worker, report.device, report.capacity_bytes, report.max_loaded) == ("omni-1", "cpu", 1000 * MB, 2)
    assert (a.status, a.weights_bytes, a.kv_bytes, a.eta_s) == ("loaded", 100 * MB, 400 * MB, 0.0)
    assert a.unload_at - report.at == pytest.approx(50.0)
    assert report.at - a.loaded_at == pytest.approx(10.0)
    assert (b.status, b.num_swapped_out, b.loaded_at) == ("cold", 3, 0.0)
    assert b.eta_s == b.swap_in_s > 0.0, "for a job that comes now"
    assert opened(bench.swap("b", "a")) == ["b"]
    report = bench.shelf.report("omni-1", {})
    assert report.num_swaps == 1
    assert report.last_swap.startswith("a -> b in ")
    assert (report.warm_bytes, report.entries[0].status) == (100 * MB, "warm")


def test_weights_of_models_that_left_first_are_dropped_first() -> None:
    bench = started(ShelfBench(warm_bytes=250 * MB))
    for before, after in ("ab", "bc", "cd"):
        bench.now += 1.0
        bench.swap(after, before)
    assert sorted(bench.keep.kept) == ["weights:b", "weights:c", "weights:d"]
    assert [entry.status for entry in bench.shelf.report("w", {}).entries] == ["cold", "warm", "warm", "loaded"]


def test_weights_of_models_that_are_not_in_the_table_are_dropped_at_the_start() -> None:
    keep = StandInKeep()
    keep.kept |= {"weights:a": 5 * MB, "weights:former": 7 * MB, "kv:a:a": MB, "kv:former:a": MB, "other": 1}
    bench = ShelfBench(A, B, keep=keep)
    assert sorted(keep.kept) == ["kv:a:a", "other", "weights:a"]
    assert bench.place("a").status == "warm"


def test_keys_and_values_that_a_dead_worker_left_go_before_weights_unless_their_model_is_loaded() -> None:
    keep = StandInKeep()
    keep.kept |= {"kv:b:b": 60 * MB, "kv:c:c": 60 * MB}
    bench = started(ShelfBench(warm_bytes=150 * MB, keep=keep))
    bench.swap("b", "a")
    assert sorted(keep.kept) == ["kv:b:b", "weights:a", "weights:b"]


def test_kept_weights_that_a_loaded_model_shares_are_not_dropped() -> None:
    bench = ShelfBench(A, B, warm_bytes=0)
    for place in bench.shelf.places:
        place.kept_name = "weights:a"
    bench.advance()
    bench.landed()
    assert bench.keep.kept == {"weights:a": 100 * MB}
    assert [entry.status for entry in bench.shelf.report("w", {}).entries] == ["loaded", "warm"]
    assert bench.shelf.report("w", {}).warm_bytes == 0


@pytest.mark.parametrize(("own_s", "given_s", "stays_s"), [(0.0, None, 300.0), (60.0, None, 60.0), (60.0, 5.0, 5.0)])
def test_a_model_that_was_ordered_stays_for_a_while(own_s: float, given_s: float | None, stays_s: float) -> None:
    bench = started(ShelfBench(TableModel(("a",), "/models/a"), TableModel(("b",), "/models/b", keep_alive_s=own_s)))
    bench.shelf.keep_alive("b", 0.0)
    bench.shelf.order("b", "load", given_s)
    bench.swap("b", "a")
    assert leaves(bench) == []
    bench.now += stays_s - 0.1
    assert leaves(bench) == []
    bench.now += 0.1
    assert leaves(bench) == ["b"]
