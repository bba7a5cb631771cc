"""What loading is expected to take."""

import pytest

from worker.shelf.swap_times import COLD, WARM, SwapTimes

GB = 10**9


def test_a_model_s_own_times_count_first_the_newest_most() -> None:
    times = SwapTimes()
    times.measured("a", GB, 8.0, is_warm=False)
    times.measured("a", GB, 4.0, is_warm=False)
    assert times.expected("a", GB, is_warm=False) == 6.0
    assert times.expected("a", GB, is_warm=True) == WARM.seconds(GB)


def test_other_models_are_expected_at_the_pace_of_what_was_loaded() -> None:
    times = SwapTimes()
    assert times.expected("b", 2 * GB, is_warm=False) == COLD.seconds(2 * GB)
    times.measured("a", GB, 6.0, is_warm=False)
    assert times.expected("b", 2 * GB, is_warm=False) == pytest.approx(11.0)


def test_a_small_model_s_load_says_nothing_of_a_large_one_s() -> None:
    times = SwapTimes()
    times.measured("tiny", 10**6, 2.0, is_warm=False)
    assert times.expected("b", 16 * GB, is_warm=False) == COLD.seconds(16 * GB)
