"""Whose line is next: owners take turns, limits of one batch delay no other, and nothing is given out twice."""

import threading
from collections.abc import Iterator

import pytest

from common.records.batch_work import OpenBatch
from dispatcher.batches.feeds import IN_QUEUE, NO_API, OTHERS_FIRST, FairFeeds, Feed
from dispatcher.batches.lines import Line


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def feed_of(batch_id: str, owner: str, num_lines: int) -> Feed:
    batch = OpenBatch(
        batch_id, owner, "openai", "/v1/chat/completions", "file-1", "in_progress", 1e12, None, num_lines, 0.0
    )
    return Feed(batch, iter([Line(number, f"{batch_id}-{number}", b"{}") for number in range(1, num_lines + 1)]), 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def feeds(clock: Clock) -> FairFeeds:
    feeds = FairFeeds(clock)
    feeds.allow(100)
    return feeds


def taken(feeds: FairFeeds) -> tuple[Feed, Line] | None:
    """What a thread would be given now; None where it would wait."""
    with feeds._changed:
        if feeds._due(feeds._clock()) is None:
            return None
    return feeds.take()


def names(feeds: FairFeeds, number: int) -> list[str]:
    return [found[1].custom_id for _ in range(number) if (found := taken(feeds)) is not None]


def test_owners_have_as_many_lines_in_flight_as_each_other_however_many_batches_they_have(feeds) -> None:
    for batch_id, owner in (("a1", "alice"), ("a2", "alice"), ("b1", "bob")):
        feeds.add(feed_of(batch_id, owner, 10))
    owners = [name[0] for name in names(feeds, 8)]
    assert owners.count("a") == owners.count("b") == 4


def test_an_owner_s_batches_take_turns(feeds) -> None:
    feeds.add(feed_of("a1", "alice", 10))
    feeds.add(feed_of("a2", "alice", 10))
    assert names(feeds, 4) == ["a1-1", "a2-1", "a1-2", "a2-2"]


def test_no_more_lines_are_in_flight_than_allowed(feeds) -> None:
    feeds.add(feed_of("a1", "alice", 10))
    feeds.allow(3)
    found = [taken(feeds) for _ in range(4)]
    assert found[3] is None
    feeds.answered(*found[0])
    assert taken(feeds) is not None and taken(feeds) is None


def test_the_bodies_of_lines_in_flight_take_no_more_memory_than_allowed(feeds, monkeypatch) -> None:
    monkeypatch.setattr("dispatcher.batches.feeds.MOST_BYTES", 5)  # a body has 2
    feeds.add(feed_of("a1", "alice", 10))
    found = [taken(feeds) for _ in range(4)]
    assert found[3] is None
    feeds.answered(*found[0])
    assert taken(feeds) is not None and taken(feeds) is None


def test_a_line_met_by_a_limit_is_sent_again_after_the_pause_and_others_go_on(feeds, clock) -> None:
    feeds.add(feed_of("a1", "alice", 3))
    feed, line = feeds.take()
    feeds.refused(feed, line, 7.0, "Too many.", is_limit=True)
    feeds.add(feed_of("b1", "bob", 1))
    assert names(feeds, 3) == ["b1-1"]
    clock.now = 7.0
    assert names(feeds, 3) == ["a1-1"]  # and no more at once than went well


def test_a_pause_ends_when_its_owner_has_room_again(feeds) -> None:
    for batch_id, owner in (("a1", "alice"), ("b1", "bob")):
        feeds.add(feed_of(batch_id, owner, 1))
        feeds.refused(*feeds.take(), 3600.0, "Too many.", is_limit=True)
    assert taken(feeds) is None
    feeds.freed({"alice"})
    assert names(feeds, 3) == ["a1-1"]


def test_a_batch_without_lines_in_flight_does_not_wait_for_long(feeds, clock) -> None:
    feeds.add(feed_of("a1", "alice", 2))
    first, second = feeds.take(), feeds.take()
    feeds.refused(*first, 60.0, "Too many.", is_limit=True)
    clock.now = 10.0
    assert taken(feeds) is None
    clock.now = 60.0
    feeds.refused(*second, 60.0, "Too many.", is_limit=True)
    clock.now = 70.0
    assert names(feeds, 1) == ["a1-1"]


def test_after_a_limit_the_lines_in_flight_grow_again_with_answers(feeds, clock) -> None:
    feeds.add(feed := feed_of("a1", "alice", 100))
    found = [feeds.take() for _ in range(5)]
    feeds.refused(*found[4], 1.0, "Too many.", is_limit=True)
    clock.now = 1.0
    assert taken(feeds) is None
    for _ in range(41):
        feeds.answered(*found[0])
        feed.num_in_flight += 1
        feeds._in_flight += 1
    assert len(names(feeds, 100)) == 4


def test_while_the_api_is_away_all_wait_and_no_line_is_lost(feeds, clock) -> None:
    feeds.add(feed_of("a1", "alice", 1))
    feeds.add(feed_of("b1", "bob", 1))
    feeds.lost(*feeds.take(), 0.5)
    assert taken(feeds) is None
    clock.now = 0.5
    assert sorted(names(feeds, 3)) == ["a1-1", "b1-1"]


def test_a_closed_batch_gives_out_no_line_and_names_those_that_may_have_a_job(feeds) -> None:
    feeds.add(feed := feed_of("a1", "alice", 9))
    found = [feeds.take() for _ in range(3)]
    feeds.answered(*found[0])
    feeds.recorded(feed, [1])
    feeds.lost(*found[2], 0.0)
    assert feeds.close(feed) == [2, 3]
    assert taken(feeds) is None and not feed.is_idle
    feeds.drop(*found[1])
    assert feed.is_idle


def test_a_file_that_is_slow_to_read_delays_no_other_batch(feeds) -> None:
    asked, there = threading.Event(), threading.Event()

    def slow() -> Iterator[Line]:
        yield Line(1, "a1-1", b"{}")
        asked.set()
        there.wait()
        yield Line(2, "a1-2", b"{}")

    feeds.add(feed := Feed(feed_of("a1", "alice", 2).batch, slow(), 0))
    found: list[tuple[Feed, Line]] = []
    reader = threading.Thread(target=lambda: found.append(feeds.take()))
    reader.start()
    assert asked.wait(60)
    others = threading.Thread(target=lambda: (feeds.add(feed_of("b1", "bob", 1)), found.append(feeds.take())))
    others.start()
    others.join(20)
    was_done, was_delayed = feed.is_done, others.is_alive()
    there.set()
    for thread in (reader, others):
        thread.join()
    assert not (was_done or was_delayed)
    assert [line.custom_id for _, line in found] == ["b1-1", "a1-1"]
    assert names(feeds, 2) == ["a1-2"]


def test_a_batch_whose_file_cannot_be_read_is_left_to_the_loop_and_its_line_is_sent(feeds) -> None:
    def broken() -> Iterator[Line]:
        yield Line(1, "a1-1", b"{}")
        raise OSError("the share is gone")

    feeds.add(Feed(feed_of("a1", "alice", 2).batch, broken(), 0))
    assert names(feeds, 2) == ["a1-1"]
    assert feeds.feed("a1") is None and feeds.num_in_flight() == 1


def test_a_batch_is_done_when_its_last_line_is_recorded(feeds) -> None:
    feeds.add(feed := feed_of("a1", "alice", 1))
    assert not feed.is_done
    feeds.answered(*feeds.take())
    assert not feed.is_done
    feeds.recorded(feed, [1])
    assert feed.is_done and feed.num_done == 1


def test_threads_that_wait_get_all_lines_once_and_end_at_a_stop() -> None:
    feeds, found = FairFeeds(), []
    feeds.allow(4)

    def work() -> None:
        while (got := feeds.take()) is not None:
            found.append(got[1].custom_id)
            feeds.answered(*got)
            feeds.recorded(got[0], [got[1].number])
            if len(found) == 200:
                feeds.stop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for batch_id, owner in (("a1", "alice"), ("b1", "bob")):
        feeds.add(feed_of(batch_id, owner, 100))
    for thread in threads:
        thread.join(10)
    assert len(found) == len(set(found)) == 200


def test_a_batch_says_why_it_waits(feeds, clock) -> None:
    feeds.allow(1)
    for batch_id in ("a1", "a2"):
        feeds.add(feed_of(batch_id, "alice", 1))
    found = feeds.take()
    assert feeds.waits_for("a1") == IN_QUEUE.format(1) and feeds.waits_for("a2") == OTHERS_FIRST
    feeds.refused(*found, 5.0, "Too many tokens this minute.", is_limit=True)
    assert feeds.waits_for("a1") == "Too many tokens this minute."
    feeds.lost(*feeds.take(), 1.0)
    assert feeds.waits_for("a2") == NO_API
    clock.now = 1.0
    feeds.answered(*feeds.take())
    assert feeds.waits_for("a2") == ""
