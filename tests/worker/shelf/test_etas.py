"""When models will be loaded, compared with when they are."""

from dataclasses import replace

import pytest

from bench.swap_model import Device, Job, Model, Simulation
from worker.shelf.etas import Eta, etas
from worker.shelf.policy import decide
from worker.shelf.view import ModelView, Running, ShelfView, Waiting

BUSY = Running(answers=2, left_s=60.0, tier="default")


def view(*models: ModelView) -> ShelfView:
    return ShelfView(models, capacity=10, max_loaded=9, max_swap_wait_s=30.0)


def loaded(name: str, work_s: float = 100.0, **fields: object) -> ModelView:
    return ModelView(name, 10, 2.0, is_loaded=True, work_s=work_s, **fields)  # type: ignore[arg-type]


def away(name: str, swap_in_s: float = 4.0, wait_s: float | None = None) -> ModelView:
    waiting = Waiting() if wait_s is None else Waiting(jobs=1, tier="default", oldest_s=wait_s)
    return ModelView(name, 10, swap_in_s, waiting=waiting)


def test_a_model_that_nothing_stands_against_takes_its_swap() -> None:
    assert etas(view(loaded("a"), away("b"))) == {"b": Eta(4.0, 4.0)}


def test_one_that_has_to_wait_for_a_least_turn_takes_that_too() -> None:
    assert etas(view(loaded("a", work_s=0.5, running=BUSY), away("b")))["b"] == Eta(1.5 + 4.0, 1.5 + 4.0)


def test_a_deadline_is_hurried_for() -> None:
    queued = Waiting(jobs=9, tier="default", oldest_s=1.0)
    found = etas(view(loaded("a", work_s=3.0, running=BUSY, waiting=queued), away("b")))["b"]
    assert found.soonest_s == 4.0 and found.expected_s > 10.0


def test_models_that_have_waited_longer_come_first() -> None:
    found = etas(view(loaded("a"), away("b", 4.0, wait_s=3.0), away("c", 1.0)))
    assert found["b"].expected_s == 4.0 and found["c"].expected_s == 4.0 + 4.0 + 1.0


def test_what_is_being_loaded_is_waited_for() -> None:
    found = etas(view(loaded("a", running=BUSY), away("b"), away("c", 1.0)), "b", 3.0, ("a",))
    assert found["b"] == Eta(3.0, 3.0) and found["c"].expected_s == 3.0 + 1.0
    assert set(found) == {"a", "b", "c"}


def test_jobs_for_which_a_model_has_just_been_loaded_do_not_keep_it_for_a_turn() -> None:
    queued = Waiting(jobs=1, tier="default", oldest_s=9.0)
    assert etas(view(loaded("a", work_s=0.1, waiting=queued), away("b")))["b"].expected_s == pytest.approx(1.9 + 4.0)
    assert etas(view(loaded("a", work_s=3.0, waiting=queued), away("b")))["b"].expected_s > 10.0, "it has no room"


def test_paused_answers_wait_no_longer_than_those_that_run() -> None:
    paused = Waiting(jobs=1, tier="default", oldest_s=1.0, has_new=False)
    running = Running(answers=1, left_s=5.0, tier="default")
    found = etas(view(loaded("a", work_s=3.0, running=running), replace(away("b"), waiting=paused)))["b"]
    assert found.expected_s == 5.0 + 4.0


def test_a_model_that_cannot_come_has_no_eta() -> None:
    assert etas(view(loaded("a", is_pinned=True), away("b"))) == {}


@pytest.mark.parametrize("num_ahead", [0, 1, 2])
def test_models_are_loaded_when_that_was_said(num_ahead: int) -> None:
    """Jobs come for one model after the other, while another has answers to compute, and nothing else comes."""
    models = [Model(f"m{number}", 10, 1.0) for number in range(num_ahead + 2)]
    jobs = [Job(0.0, 0, tokens=1000), *(Job(3.0 + number, number, tokens=500) for number in range(1, num_ahead + 2))]
    simulation = Simulation(Device(10), models, jobs, decide)
    while simulation.num_arrived < len(jobs):
        simulation.tick()
    said_s = simulation.now + expected_s(simulation, models[-1].name)
    while not models[-1].is_loaded:
        simulation.tick()
    assert simulation.now == pytest.approx(said_s, abs=1.5)


def expected_s(simulation: Simulation, name: str) -> float:
    swap, loaded_at = simulation.swap, simulation.loaded_at
    if swap is None or loaded_at is None:
        return etas(simulation.view())[name].expected_s
    return etas(simulation.view(), swap.to, loaded_at - simulation.now, swap.out)[name].expected_s
