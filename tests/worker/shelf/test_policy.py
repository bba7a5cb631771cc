"""What the policy of many models decides, case by case."""

from dataclasses import replace
from typing import Any

import pytest

from worker.shelf.policy import decide
from worker.shelf.view import ModelView, Running, ShelfView, Stay, Swap, Waiting


def view(*models: ModelView, capacity: int = 10, max_loaded: int = 9) -> ShelfView:
    return ShelfView(models, capacity, max_loaded, max_swap_wait_s=30.0)


def loaded(name: str = "a", **fields: Any) -> ModelView:
    defaults: dict[str, Any] = {"bytes": 10, "swap_in_s": 2.0, "work_s": 300.0}
    return ModelView(name, is_loaded=True, **defaults | fields)


def away(name: str = "b", **fields: Any) -> ModelView:
    return ModelView(name, **{"bytes": 10, "swap_in_s": 2.0} | fields)


def jobs(oldest_s: float = 0.0, **fields: Any) -> Waiting:
    defaults: dict[str, Any] = {"jobs": 1, "keys": 1.0, "tier": "default", "oldest_s": oldest_s}
    return Waiting(**defaults | fields)


FLEX = Waiting(jobs=9, keys=1.0, tier="flex", class_=1000, oldest_flex_s=50.0, has_new=False)
PRIORITY = jobs(tier="priority", class_=-1000)
LONG, SHORT = Running(2, left_s=40.0, tier="default"), Running(2, left_s=1.0, tier="default")


def test_long_answers_pause_for_a_question_to_another_model() -> None:
    """The first example of docs/many-models.md."""
    decision = decide(view(loaded(running=LONG), away(waiting=jobs())))
    assert decision == Swap("b", ("a",), "pause", "a caller has waited 0.0 s for it", 2.0)
    decision = decide(view(loaded(running=SHORT), away(waiting=jobs())))
    assert isinstance(decision, Swap) and (decision.how, decision.in_s) == ("finish", 3.0)
    back = decide(view(away("a", waiting=jobs(has_new=False)), loaded("b", work_s=1.5)))
    assert isinstance(back, Swap) and (back.to, back.out) == ("a", ("b",))


def test_turns_are_in_proportion_to_keys() -> None:
    """The second example of docs/many-models.md."""
    flood, stream = jobs(90.0, jobs=500), jobs(keys=3.0)
    stay = decide(view(loaded(work_s=2.5, running=LONG, waiting=flood), away(waiting=stream)))
    assert isinstance(stay, Stay) and (stay.to, stay.in_s) == ("b", 4.0)
    stay = decide(view(away("a", away_s=10.0, waiting=flood), loaded("b", work_s=4.5, running=LONG, waiting=stream)))
    assert isinstance(stay, Stay) and stay.in_s == pytest.approx(15.0)


def test_a_model_computes_for_as_long_as_loading_it_took() -> None:
    stay = decide(view(loaded(work_s=0.5, running=LONG), away(waiting=PRIORITY)))
    assert isinstance(stay, Stay) and (stay.to, stay.in_s) == ("b", 1.5)
    resuming = decide(view(loaded(work_s=3.0, resume_s=1.0, running=LONG), away(waiting=PRIORITY)))
    assert isinstance(resuming, Stay) and resuming.in_s == 1.0


def test_earlier_tiers_do_not_give_way_until_others_are_late() -> None:
    busy = loaded(running=replace(LONG, tier="priority"))
    stay = decide(view(busy, away(waiting=jobs(10.0))))
    assert isinstance(stay, Stay) and stay.in_s == 20.0
    assert isinstance(decide(view(busy, away(waiting=jobs(30.0)))), Swap)
    assert isinstance(decide(view(loaded(running=LONG), away(waiting=PRIORITY))), Swap)


def test_running_answers_do_not_end_first_where_a_head_of_an_earlier_tier_waits() -> None:
    decision = decide(view(loaded(running=SHORT), away(waiting=PRIORITY)))
    assert isinstance(decision, Swap) and decision.how == "pause"


def test_a_job_that_has_not_begun_goes_before_paused_answers_until_these_are_late() -> None:
    paused, new = away("b", waiting=jobs(9.0, has_new=False)), away("c", waiting=jobs(1.0))
    assert decide(view(loaded(running=LONG), paused, new)).to == "c"
    late = away("b", waiting=jobs(27.0, has_new=False))
    assert decide(view(loaded(running=LONG), late, new)).to == "b"


def test_a_deadline_is_hurried_for_while_it_can_be_kept() -> None:
    queued = loaded(work_s=3.0, running=LONG, waiting=jobs(50.0))
    assert isinstance(decide(view(queued, away(waiting=jobs(1.0)))), Stay)
    assert isinstance(decide(view(queued, away(waiting=jobs(1.0, deadline_s=2.0)))), Swap)
    assert isinstance(decide(view(queued, away(waiting=jobs(1.0, deadline_s=1.0)))), Stay), (
        "it is too late for that one"
    )


def test_flex_waits_for_all_others_and_then_takes_long_turns() -> None:
    assert isinstance(decide(view(loaded(waiting=jobs()), away(waiting=FLEX))), Stay)
    assert isinstance(decide(view(loaded(running=LONG), away(waiting=FLEX))), Stay)
    assert isinstance(decide(view(loaded(bytes=1, waiting=jobs()), away(bytes=5, waiting=FLEX))), Stay), "it would fit"
    callers_left = loaded(idle_s=3.0)
    stay = decide(view(callers_left, away(waiting=FLEX)))
    assert isinstance(stay, Stay) and stay.in_s == 1.0
    assert isinstance(decide(view(loaded(idle_s=4.0), away(waiting=FLEX))), Swap)
    working = replace(LONG, tier="flex")
    stay = decide(view(loaded(work_s=5.0, running=working), away(waiting=FLEX)))
    assert isinstance(stay, Stay) and stay.in_s == 15.0
    hurried = replace(FLEX, flex_deadline_s=10.0)
    assert isinstance(decide(view(loaded(work_s=5.0, running=working), away(waiting=hurried))), Swap)
    assert isinstance(decide(view(loaded(running=working), away(waiting=jobs()))), Swap), "it gives way at once"


def test_a_flex_job_that_goes_first_as_a_suspect_makes_no_flex_queue_of_others() -> None:
    mixed = replace(FLEX, oldest_s=1.0)
    assert isinstance(decide(view(loaded(running=LONG), away(waiting=mixed))), Swap)
    assert isinstance(decide(view(loaded(work_s=3.0, waiting=mixed), away(waiting=jobs()))), Stay)


def test_no_more_models_leave_than_are_needed_and_the_least_needed_first() -> None:
    busy, idle = loaded("busy", bytes=4, running=LONG), loaded("idle", bytes=3, idle_s=9.0)
    idler, pinned = loaded("idler", bytes=2, idle_s=99.0), loaded("pinned", bytes=1, idle_s=999.0, is_pinned=True)
    models = (busy, idle, idler, pinned)

    def out(num_bytes: int, **limits: int) -> tuple[str, ...]:
        decision = decide(view(*models, away(bytes=num_bytes, waiting=jobs()), **limits))
        assert isinstance(decision, Swap)
        return decision.out

    assert out(2, capacity=12) == ()
    assert out(2) == ("idler",)
    assert out(3) == ("idle",), "the idler need not leave too"
    assert out(5) == ("idler", "idle")
    assert out(9) == ("idler", "idle", "busy")
    assert out(1, capacity=99, max_loaded=4) == ("idler",)


def test_a_model_that_does_not_fit_beside_the_pinned_ones_is_not_waited_for() -> None:
    stay = decide(view(loaded(bytes=5, is_pinned=True), away(bytes=6, waiting=jobs(99.0))))
    assert isinstance(stay, Stay) and stay.to == ""
    assert isinstance(decide(view(loaded(), away(waiting=jobs(99.0), can_load=False))), Stay)


def test_an_order_counts_as_a_job_and_a_pinned_model_is_loaded_when_nothing_else_is_to_be_done() -> None:
    ordered = decide(view(loaded(), away(ordered_s=0.0)))
    assert isinstance(ordered, Swap) and ordered.to == "b"
    assert isinstance(decide(view(loaded(), away(is_pinned=True))), Swap)
    assert isinstance(decide(view(loaded(running=LONG), away(is_pinned=True))), Stay)


def test_while_a_model_is_loaded_nothing_else_is_decided() -> None:
    assert isinstance(decide(replace(view(loaded(), away(waiting=jobs(99.0))), loading="c")), Stay)
