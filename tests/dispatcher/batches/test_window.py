"""The number of lines in flight: it follows what the engines take, and never takes the queue from others."""

import pytest

from dispatcher.batches.window import FIRST, LEAST, QueueLoad, next_size


@pytest.mark.parametrize(
    ("in_flight", "waiting", "running", "size"),
    [
        (64, 4, 55, 96),  # the engines take all that is sent
        (64, 30, 30, 64),  # enough waits
        (64, 4, 20, 64),  # most are on their way: the API is the bound, and more would only wait there
        (64, 90, 10, 51),  # many wait, whoever they are
        (10, 0, 10, 64),  # a small batch
    ],
)
def test_the_window_follows_the_queue(in_flight: int, waiting: int, running: int, size: int) -> None:
    assert next_size(64, in_flight, QueueLoad(waiting, running), 10_000) == size


def test_it_is_at_most_half_of_the_queue_and_at_least_something() -> None:
    assert next_size(FIRST, 64, QueueLoad(0, 64), 100) == 50
    assert next_size(FIRST, 64, QueueLoad(0, 64), 1) == 1
    size = FIRST
    for _ in range(100):
        size = next_size(size, size, QueueLoad(10 * size, 0), 10_000)
    assert size == LEAST
