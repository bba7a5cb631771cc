"""Jobs whose model is not loaded are told when it will be, and a deadline that a swap breaks is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from bench.forecasts import Mix, Simulation, Told, clock_of_our_own
from common.errors import WindowTooShort
from tests.bench.test_forecasts import SHORT, absurd, burst, served


@pytest.fixture(scope="module")
def scripts() -> Iterator[Path]:
    with clock_of_our_own() as folder:
        yield folder


def swap(sim: Simulation, expected_s: float, soonest_s: float | None = None) -> None:
    """The worker reports in how long the queue's model will be loaded."""
    soonest_s = expected_s if soonest_s is None else soonest_s
    sim.ledger.renew({"loads_in_ms": round(expected_s * 1000), "soonest_ms": round(soonest_s * 1000)})


def told_while_swapped_out(redis: "Redis", scripts: Path) -> list[Told]:
    """Ten jobs come, in 20 seconds their model is loaded, and they run."""
    sim = served(redis, scripts, *[SHORT] * 60)
    swap(sim, 20.0)
    told = [sim.arrive(SHORT) for _ in range(10)]
    for _ in range(200):
        sim.work(100)  # nothing is claimed
    swap(sim, 0.0)
    sim.drain()
    return told


def test_the_time_until_the_model_is_loaded_is_part_of_the_forecast(redis: "Redis", scripts: Path) -> None:
    told = told_while_swapped_out(redis, scripts)
    assert all(job.eta_s > 20 for job in told) and all(job.is_good for job in told)


def test_forecasts_that_do_not_know_of_swaps_are_far(redis: "Redis", scripts: Path, tmp_path: Path) -> None:
    """The control."""
    for path in scripts.glob("*.lua"):
        (tmp_path / path.name).write_text(path.read_text().replace("view.loads_in + ", ""))
    assert len(absurd(told_while_swapped_out(redis, tmp_path))) > 5


def test_jobs_that_wait_are_told_what_the_worker_expects_now(redis: "Redis", scripts: Path) -> None:
    sim = served(redis, scripts, *[SHORT] * 20)
    swap(sim, 20.0)
    sim.arrive(SHORT)
    job_id = list(sim.told)[-1]
    before = sim.store.jobs.outlooks([job_id])[job_id].eta_s
    swap(sim, 5.0)
    assert before - sim.store.jobs.outlooks([job_id])[job_id].eta_s == pytest.approx(15.0, abs=0.1)


def test_waits_for_a_model_correct_no_forecasts_of_jobs_that_need_no_swap(redis: "Redis", scripts: Path) -> None:
    sim = served(redis, scripts, *[SHORT] * 60)
    swap(sim, 1.0)  # it takes twenty times as long
    for _ in range(30):
        sim.arrive(SHORT)
    for _ in range(200):
        sim.work(100)
    swap(sim, 0.0)
    sim.drain()
    told = burst(sim, *[SHORT] * 20)
    sim.drain()
    assert absurd(told) == []


def test_a_deadline_is_refused_where_not_even_the_soonest_swap_keeps_it(redis: "Redis", scripts: Path) -> None:
    sim = served(redis, scripts, *[SHORT] * 60)
    swap(sim, 60.0, soonest_s=8.0)
    with pytest.raises(WindowTooShort) as refused:
        sim.arrive(SHORT, deadline_s=10)
    needed_s = 10 + (refused.value.retry_after_s or 0)
    assert 8 + 300 * 0.02 < needed_s < 8 + 300 * 0.03
    sim.arrive(SHORT, deadline_s=needed_s + 1)


def test_a_model_without_a_place_has_no_forecast_and_takes_no_deadline(redis: "Redis", scripts: Path) -> None:
    sim = served(redis, scripts, *[SHORT] * 60)
    sim.ledger.renew({"loads_in_ms": -1, "soonest_ms": -1})
    assert sim.arrive(SHORT).eta_s == -1
    with pytest.raises(WindowTooShort, match="its model cannot be loaded as things stand"):
        sim.arrive(SHORT, deadline_s=1e6)
    sim.ledger.renew({"loads_in_ms": -1, "soonest_ms": 0})  # not known, as between two attempts to load it
    assert sim.arrive(SHORT, deadline_s=1000).eta_s == -1


def test_a_deadline_before_the_soonest_swap_is_refused_before_anything_is_measured(
    redis: "Redis", scripts: Path
) -> None:
    sim = Simulation(redis, Mix("story", (SHORT,), num_places=4), scripts)
    swap(sim, 60.0, soonest_s=8.0)
    with pytest.raises(WindowTooShort):
        sim.arrive(SHORT, deadline_s=7)
    assert not sim.arrive(SHORT, deadline_s=9).is_known
    assert not sim.arrive(SHORT).is_known
