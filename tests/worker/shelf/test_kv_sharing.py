"""Models that are loaded share the memory for keys and values by what each has used."""

import pytest

from common.shelf.table import TableModel
from tests.worker.shelf.stand_ins import MB, ShelfBench
from worker.engine.interface import KVDemand
from worker.shelf.kv_sharing import share_out

A, B = TableModel(("a",), "/models/a"), TableModel(("b",), "/models/b")


def demand(peak: int, *, least: int = 10, most: int = 1000, preempted: int = 0) -> KVDemand:
    return KVDemand(least, most, peak, preempted)


@pytest.mark.parametrize(
    ("total", "demands", "shares"),
    [
        (100, {"a": demand(0)}, {"a": 100}),
        (2000, {"a": demand(0)}, {"a": 1000}),
        (100, {"a": demand(0), "b": demand(0)}, {"a": 50, "b": 50}),
        (100, {"a": demand(64), "b": demand(0)}, {"a": 85, "b": 15}),
        (200, {"a": demand(40, preempted=1), "b": demand(40)}, {"a": 115, "b": 85}),
        (60, {"a": demand(100), "b": demand(100)}, {"a": 30, "b": 30}),
        (100, {"a": demand(0, most=20), "b": demand(0)}, {"a": 20, "b": 80}),
        (5, {"a": demand(0), "b": demand(0)}, {"a": 10, "b": 10}),
        (100, {"a": KVDemand(), "b": demand(0)}, {"a": 0, "b": 100}),
    ],
)
def test_memory_is_shared_out_by_use(total: int, demands: dict[str, KVDemand], shares: dict[str, int]) -> None:
    assert share_out(total, demands) == pytest.approx(shares, abs=1)


def test_a_model_gives_memory_to_one_that_comes_and_gets_it_back() -> None:
    bench = ShelfBench(max_loaded=None)
    bench.memory.total = 500 * MB
    bench.advance()
    bench.landed()
    (a,) = bench.engines
    assert a.kv_bytes == 400 * MB
    bench.swap("b")
    b = bench.engines[1]
    assert (a.kv_bytes, b.kv_bytes) == (150 * MB, 150 * MB)
    bench.shelf.order("b", "unload")
    bench.advance()
    bench.shelf.closed("b")
    bench.advance()
    bench.landed()
    assert a.kv_bytes == 400 * MB


def test_a_model_under_pressure_gets_more_when_another_one_comes() -> None:
    bench = ShelfBench(max_loaded=None)
    bench.memory.total = 500 * MB
    bench.advance()
    bench.landed()
    bench.engines[0].demand = KVDemand(10 * MB, 400 * MB, 120 * MB, num_preemptions=3)
    bench.swap("b")
    assert bench.engines[0].kv_bytes >= 240 * MB
    assert bench.engines[0].kv_bytes + bench.engines[1].kv_bytes == 300 * MB


@pytest.mark.parametrize(("max_loaded", "total", "kv_bytes"), [(None, 500, 150), (1, 500, 400), (None, 210, 110)])
def test_on_a_gpu_a_model_leaves_room_for_those_that_fit_beside_it(
    max_loaded: int | None, total: int, kv_bytes: int
) -> None:
    bench = ShelfBench(A, B, max_loaded=max_loaded)
    bench.memory.holds_kept, bench.memory.is_elastic, bench.memory.device = False, False, "cuda:0"
    bench.memory.total = total * MB
    bench.advance()
    while not bench.woken.wait(0.001):
        bench.shelf.opener.turn.give()
    assert bench.given_kv == [kv_bytes * MB]
