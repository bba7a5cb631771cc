"""Forecasts of the KV blocks that running sequences need."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from common.wire import OPEN_TOKENS
from worker.engine.memory.growth import AnswerLengths, Demand, Forecast, most_blocks
from worker.state.kv_cache import KVCache, LayerShape

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


def test_an_answer_that_only_the_context_limits_is_given_room_for_a_usual_one() -> None:
    """Agents set no limit. Room for all that the context holds would leave the others waiting."""
    forecast = Forecast(KVCache([LayerShape(1, 8, 8)], 8, 16, torch.float32, torch.device("cpu")), 131_072)
    assert forecast.of_new(1_000, 130_072) == forecast.of_new(1_000, OPEN_TOKENS)
    assert forecast.of_new(1_000, 100_000).growth > forecast.of_new(1_000, OPEN_TOKENS).growth
    assert forecast.of_new(131_000, 72).growth == 5
