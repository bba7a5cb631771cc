"""What steps cost is learned from the steps; what is not known, or stale, forbids rather than allows."""

import math
import random

import pytest

from worker.engine.costs import KEPT_STEPS, Costs, Load, RowWork, StepCosts


def measured(**seconds_by_size: float) -> Costs:
    """Sizes as `s1=0.006`."""
    costs = Costs()
    for name, seconds in seconds_by_size.items():
        for _ in range(20):
            costs.note(int(name[1:]), 0, seconds)
    return costs


def test_between_two_measured_sizes_the_cost_is_on_a_straight_line() -> None:
    costs = measured(s1=0.006, s9=0.014)
    assert costs.low(5, 0) == costs.high(5, 0) == pytest.approx(0.010)


def test_a_size_smaller_than_any_measured_one_is_not_taken_for_as_long() -> None:
    costs = measured(s64=0.036)
    assert costs.low(1, 0) == 0.0 and costs.low(64, 0) == pytest.approx(0.036)


def test_a_stale_small_size_does_not_make_larger_ones_look_free() -> None:
    costs = measured(s1=0.020, s9=0.012)  # one row was measured while another program ran
    assert costs.low(1, 0) == pytest.approx(0.012) and costs.high(9, 0) == pytest.approx(0.020)


def test_unknown_sizes_are_tried_an_eighth_at_a_time() -> None:
    flat, steep = measured(s1=0.007, s32=0.007), measured(s1=0.006, s32=0.038)
    assert flat.high(36, 0) == pytest.approx(0.007)
    assert steep.high(36, 0) == pytest.approx(0.0421, abs=1e-4)
    assert flat.high(37, 0) == flat.high(33, 0, tries=False) == Costs().high(1, 0) == math.inf
    assert measured(s1=0.006).high(2, 0) == pytest.approx(0.006)


def test_pairs_are_charged_as_soon_as_they_stand_out_from_the_noise() -> None:
    costs, rnd = Costs(), random.Random(1)
    for step in range(400):
        pairs = 4 * (100 + 10 * step)
        costs.note(4, pairs, (0.008 + 1e-6 * pairs) * rnd.uniform(0.95, 1.05))
    assert 5e-7 < costs.per_pair < 1.1e-6  # on the safe side of the noise, which grows with the time too
    assert costs.high(4, 100_000) > 2 * costs.high(4, 16_000)
    noise = Costs()
    for _ in range(400):
        noise.note(4, rnd.randrange(4000), 0.008 * rnd.uniform(0.9, 1.1))
    assert noise.per_pair < 5e-8


def test_one_step_that_took_a_second_changes_little_and_old_sizes_are_forgotten() -> None:
    costs = measured(s1=0.006)
    costs.note(1, 0, 1.0)
    assert costs.low(1, 0) < 0.009
    costs.note(9, 0, 0.03)
    for _ in range(2 * KEPT_STEPS):
        costs.note(1, 0, 0.006)
    assert costs.high(2, 0) == pytest.approx(0.006) and costs.high(9, 0) == math.inf


def test_a_step_is_shared_by_what_its_rows_cost_and_no_time_is_lost() -> None:
    costs = StepCosts()
    for num in (1, 4, 8):
        costs.note(Load(num, 0, 0, 0), 0.004 + 0.001 * num)
    for _ in range(10):
        costs.note(Load(4, 0, 100, 0), 0.028)  # 8 ms for four rows, 20 ms for a prompt
    works: list[RowWork] = [*((f"d{at}", 1, 0, True) for at in range(4)), ("p", 100, 0, False)]
    shares: dict[str, float] = {}
    costs.charge(Load(4, 0, 100, 0), works, 0.056, shares)
    assert sum(shares.values()) == pytest.approx(0.056)
    assert shares["p"] == pytest.approx(0.040) and shares["d0"] == pytest.approx(0.004)
    StepCosts().charge(Load(), [], 1.0, empty := {})
    assert not empty


def test_what_a_prompt_adds_is_known_apart_from_the_rows_beside_it() -> None:
    costs = StepCosts()
    for num in (1, 16):
        costs.note(Load(decoded=num), 0.010)
    costs.note(Load(decoded=16, read=64), 0.030)
    assert costs.low(Load(decoded=16, read=64)) == pytest.approx(0.030)
    assert costs.extra(Load(decoded=1), Load(decoded=16), tries=False) == pytest.approx(0.0)
    assert costs.extra(Load(decoded=1), Load(decoded=1, read=64), tries=False) == pytest.approx(0.020)
