"""Forecasts of the KV blocks that running sequences need."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.growth import AnswerLengths, Demand, most_blocks

demands = st.lists(st.builds(Demand, st.integers(0, 20), st.integers(0, 20)), max_size=8)


def played(some: list[Demand]) -> int:
    """Simulated: all grow by a block at a time, and free their blocks when they end."""
    most = sum(demand.held for demand in some)
    for time in range(1, 21):
        most = max(most, sum(demand.held + time for demand in some if demand.growth >= time))
    return most


@given(demands)
def test_most_blocks_is_the_peak_of_a_simulation(some: list[Demand]) -> None:
    assert most_blocks(some) == played(some)


def test_the_expected_length_follows_the_answers_and_rises_after_a_preemption() -> None:
    lengths = AnswerLengths()
    assert lengths.expected(1000, 0) == 1000
    for _ in range(200):
        lengths.ended(100, 1000)
    assert 100 <= lengths.expected(1000, 0) < 110
    assert lengths.expected(1000, 400) == 401
    lengths.was_too_short()
    assert lengths.expected(1000, 0) > 500
