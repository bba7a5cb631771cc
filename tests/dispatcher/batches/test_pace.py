"""The expected end of a batch: true while lines end, and none where nothing is known."""

import time

import pytest

from common.records.batch_work import OpenBatch
from dispatcher.batches.feeds import Feed
from dispatcher.batches.pace import Pace, Paces

DAY_S = 24 * 3600


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_feed(num_total: int) -> Feed:
    expires = time.time() + DAY_S
    return Feed(
        OpenBatch(
            id="batch_1",
            owner="a",
            dialect="openai",
            endpoint="/v1/completions",
            input_file_id="",
            status="in_progress",
            expires=expires,
            output_ttl=None,
            num_total=num_total,
            in_progress=0,
        ),
        iter([]),
        0,
    )


def next_pace(paces: Paces, clock: Clock, feed: Feed, num_ended: int) -> Pace:
    clock.now += 3
    feed.num_done += num_ended
    [pace] = paces.due([feed])
    return pace


def test_the_end_is_expected_at_the_measured_pace() -> None:
    clock, feed = Clock(), a_feed(num_total=100)
    paces = Paces(clock)
    assert next_pace(paces, clock, feed, 0).eta is None
    pace = next_pace(paces, clock, feed, 30)
    assert pace.lines_per_s == 10 and pace.eta == pytest.approx(time.time() + 7, abs=1)
    assert pace.has_moved and not next_pace(paces, clock, feed, 0).has_moved


def test_a_batch_that_stands_still_has_no_expected_end_until_it_goes_on() -> None:
    clock, feed = Clock(), a_feed(num_total=1000)
    paces = Paces(clock)
    for _ in range(5):
        next_pace(paces, clock, feed, 30)
    assert next_pace(paces, clock, feed, 0).eta is not None
    stalled = [next_pace(paces, clock, feed, 0) for _ in range(30)][-1]
    assert (stalled.lines_per_s, stalled.eta) == (0, None)
    assert next_pace(paces, clock, feed, 30).lines_per_s == 10


def test_no_end_is_expected_after_the_batch_has_expired() -> None:
    clock, feed = Clock(), a_feed(num_total=10_000_000)
    paces = Paces(clock)
    next_pace(paces, clock, feed, 0)
    pace = next_pace(paces, clock, feed, 3)
    assert pace.lines_per_s == 1 and pace.eta is None
