"""Models that have work share the device's time, whatever their steps take."""

from collections import Counter

from worker.jobs.turns import FairTurns


def used(turns: FairTurns, lengths: dict[str, float], num_steps: int) -> Counter[str]:
    """Seconds by queue, of models that all have work."""
    found: Counter[str] = Counter()
    for _ in range(num_steps):
        queue = turns.next(list(lengths))
        turns.took(queue, lengths[queue])
        found[queue] += lengths[queue]  # type: ignore[assignment]
    return found


def test_a_model_with_long_steps_gets_no_more_time_than_one_with_short_steps() -> None:
    found = used(FairTurns(), {"large": 1.0, "small": 0.01, "middle": 0.1}, 1100)
    assert max(found.values()) - min(found.values()) <= 1.01


def test_a_model_that_was_idle_neither_waits_for_the_others_nor_makes_them_wait() -> None:
    turns = FairTurns()
    used(turns, {"a": 0.1}, 1000)
    assert set(used(turns, {"a": 0.1, "b": 0.1}, 2)) == {"a", "b"}
    used(turns, {"b": 0.1}, 500)
    assert set(used(turns, {"a": 0.1, "b": 0.1}, 3)) == {"a", "b"}
