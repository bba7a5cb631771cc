"""The hub and events(): every entry once and in order, even if pub/sub loses, repeats or delays messages."""

import random
from types import SimpleNamespace
from typing import Any

import gevent
import orjson
import pytest
from flask import Flask, request
from redis.exceptions import ConnectionError as RedisConnectionError

from api.jobs.answers import Answer
from api.jobs.events import ClientGone, Closing, events
from api.jobs.hub import EventHub
from api.jobs.subscription import MAX_LIVE_ENTRIES, Subscription
from api.jobs.waiting.notices import Idle, Queued, words_of
from common.errors import Conflict, NotFound, Restarting
from common.redis.job_log import LogEntry
from common.redis.store import JobStatus
from common.wire import Delta, Finished, Tier
from common.wire_codec import encode_event


class FakeStore:
    """A store with one log in memory; `entries` stands for the real log's XRANGE."""

    def __init__(self, num_deltas: int) -> None:
        deltas = [Delta(0, (n,), f"t{n} ") for n in range(1, num_deltas + 1)]
        self.all_entries = [LogEntry(n, event) for n, event in enumerate([*deltas, Finished(1, num_deltas)], 1)]
        self.num_written = 0
        self.num_reads = 0
        self.said = JobStatus("running", 0, -1)  # the answer of poll()

    @property
    def log(self) -> "FakeStore":
        return self

    def poll(self, job_ids: list[str]) -> list[JobStatus]:
        return [self.said]

    def entries(self, job_id: str, after: int = 0, count: int = 16) -> list[LogEntry]:
        self.num_reads += 1
        return self.all_entries[after : min(self.num_written, after + count)]


def message(rows: list[LogEntry]) -> bytes:
    return b"[" + b",".join(b'["j",%d,%s]' % (row.seq, encode_event(row.event)) for row in rows) + b"]"


def hub_for(store: FakeStore) -> EventHub:
    return EventHub(store, None)  # type: ignore[arg-type]


def read_all(store: FakeStore, subscription: Subscription, after: int = 0, *, is_new: bool = True) -> list[int]:
    return [row.seq for row in events(store, subscription, after, is_new=is_new) if isinstance(row, LogEntry)]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_comes_once_and_in_order_though_messages_are_lost_repeated_and_swapped(seed: int) -> None:
    rnd = random.Random(seed)
    store = FakeStore(200)
    hub = hub_for(store)
    subscription = hub.subscribe("j")
    reading = gevent.spawn(read_all, store, subscription)
    at = 0
    while at < len(store.all_entries):
        step = store.all_entries[at : at + rnd.randint(1, 3)]
        at += len(step)
        store.num_written = at
        for _ in range(rnd.choice([0, 1, 1, 1, 2])):
            hub.dispatch(message(step if rnd.random() < 0.9 else store.all_entries[max(0, at - 5) : at]))
        if rnd.random() < 0.3:
            gevent.sleep(0)
    subscription.update(JobStatus("finished", len(store.all_entries), -1))  # the sweep, after a lost last message
    assert reading.get(timeout=10) == list(range(1, len(store.all_entries) + 1))


def test_a_lost_last_message_is_found_by_the_sweep() -> None:
    store = FakeStore(3)
    subscription = hub_for(store).subscribe("j")
    reading = gevent.spawn(read_all, store, subscription)
    gevent.sleep(0)
    store.num_written = 4
    assert not reading.ready()
    subscription.update(JobStatus("finished", 4, -1))
    assert reading.get(timeout=5) == [1, 2, 3, 4]


def test_a_slow_reader_holds_a_bounded_number_of_entries_and_reads_the_rest_from_the_log() -> None:
    store = FakeStore(1000)
    hub = hub_for(store)
    subscription = hub.subscribe("j")
    store.num_written = len(store.all_entries)
    for row in store.all_entries:
        hub.dispatch(message([row]))
        assert len(subscription._entries) <= MAX_LIVE_ENTRIES
    assert read_all(store, subscription) == list(range(1, 1002))


def test_a_new_job_whose_messages_all_arrive_never_reads_the_log() -> None:
    store = FakeStore(20)
    hub = hub_for(store)
    subscription = hub.subscribe("j")
    hub.dispatch(message(store.all_entries))
    assert read_all(store, subscription) == list(range(1, 22))
    assert store.num_reads == 0


def test_a_resumed_stream_starts_after_the_last_entry_received() -> None:
    store = FakeStore(40)
    store.num_written = 41
    assert read_all(store, hub_for(store).subscribe("j"), after=17, is_new=False) == list(range(18, 42))


def test_a_waiting_client_is_sent_its_position_only_when_it_changes() -> None:
    store = FakeStore(1)
    subscription = hub_for(store).subscribe("j")
    stream = events(store, subscription, 0, is_new=True)  # type: ignore[arg-type]
    subscription.update(JobStatus("queued", 0, 4, 9.0))
    assert next(stream) == Queued(5, 9.0)
    gevent.spawn_later(0, subscription.update, JobStatus("queued", 0, 4, 9.0))
    gevent.spawn_later(0.01, subscription.update, JobStatus("queued", 0, 3, 7.0))
    assert next(stream) == Queued(4, 7.0)


@pytest.mark.parametrize(("tier", "words"), [("default", ""), ("flex", " tier=flex"), ("priority", " tier=priority")])
def test_the_comment_of_a_waiting_job_names_its_tier_unless_it_is_the_default(tier: Tier, words: str) -> None:
    store = FakeStore(1)
    subscription = hub_for(store).subscribe("j")
    subscription.update(JobStatus("queued", 0, 4, 9.0, tier=tier))
    notice = next(events(store, subscription, 0, is_new=True))  # type: ignore[arg-type]
    assert isinstance(notice, Queued) and words_of(notice) == f"queued position=5 eta=9{words}"


def test_silence_becomes_an_idle_despite_sweeps_without_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.jobs.events.KEEP_ALIVE_S", 0.01)
    subscription = hub_for(FakeStore(1)).subscribe("j")
    reading = gevent.spawn(next, events(FakeStore(1), subscription, 0, is_new=True))  # type: ignore[arg-type]
    with gevent.Timeout(5):
        while not reading.ready():
            subscription.update(JobStatus("running", 1, -1))
            gevent.sleep(0.001)
    assert reading.get() == Idle()


def test_silence_becomes_an_idle_also_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(FakeStore):
        def poll(self, job_ids: list[str]) -> list[JobStatus]:
            raise RedisConnectionError("away")

    monkeypatch.setattr("api.jobs.events.KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr("api.jobs.hub.SWEEP_S", 0.001)
    hub = hub_for(Away(1))
    subscription = hub.subscribe("j")
    sweeping = gevent.spawn(hub._sweep_every_second)
    reading = gevent.spawn(next, events(hub.store, subscription, 0, is_new=True))
    assert reading.get(timeout=5) == Idle()
    sweeping.kill()


def test_a_disconnected_client_raises_client_gone() -> None:
    subscription = hub_for(FakeStore(1)).subscribe("j")
    subscription.client_gone()
    with pytest.raises(ClientGone):
        next(events(FakeStore(1), subscription, 0, is_new=True))  # type: ignore[arg-type]


def test_a_stopping_process_ends_its_streams_so_that_they_can_be_resumed() -> None:
    hub = hub_for(FakeStore(1))
    subscription = hub.subscribe("j")
    hub.stop()
    assert list(events(FakeStore(1), subscription, 0, is_new=True)) == [Closing()]  # type: ignore[arg-type]
    assert hub.subscribe("later").is_closing


def test_a_log_that_was_rewound_is_an_error_and_not_silently_other_text() -> None:
    store = FakeStore(10)
    subscription = hub_for(store).subscribe("j")
    stream = events(store, subscription, 8, is_new=True)  # type: ignore[arg-type]
    store.said = JobStatus("failed", 5, -1)
    subscription.update(store.said)
    with pytest.raises(Conflict) as refused:
        next(stream)
    assert (refused.value.code, refused.value.param) == ("stream_rewound", None)  # the client gave no number


def test_an_expired_job_is_not_found() -> None:
    store = FakeStore(1)
    subscription = hub_for(store).subscribe("j")
    store.said = JobStatus("", 0, -1)
    subscription.update(store.said)
    with pytest.raises(NotFound):
        next(events(store, subscription, 0, is_new=True))  # type: ignore[arg-type]


def test_a_look_that_was_older_than_the_job_is_not_believed() -> None:
    store = FakeStore(2)
    hub = hub_for(store)
    subscription = hub.subscribe("j")
    subscription.update(JobStatus("", 0, -1))
    hub.dispatch(message(store.all_entries))
    assert read_all(store, subscription) == [1, 2, 3]


def test_two_subscriptions_of_a_job_both_receive_all_and_the_last_to_end_is_known() -> None:
    store = FakeStore(5)
    hub = hub_for(store)
    first, second = hub.subscribe("j"), hub.subscribe("j")
    hub.dispatch(message(store.all_entries))
    assert read_all(store, first) == read_all(store, second) == [1, 2, 3, 4, 5, 6]
    assert not hub.unsubscribe(first)
    assert hub.unsubscribe(second)
    assert orjson.loads(message(store.all_entries))[0][0] == "j"


def test_a_request_for_a_whole_answer_ends_later_than_a_stream() -> None:
    hub = hub_for(FakeStore(1))
    stream, whole = hub.subscribe("a"), hub.subscribe("b")
    whole.waits_for_end = True
    hub.end_streams()
    assert (stream.is_closing, whole.is_closing) == (True, False)
    hub.stop()
    assert whole.is_closing


def test_a_stream_without_a_pause_ends_too_when_its_process_stops() -> None:
    store = FakeStore(1000)
    store.num_written = 1000
    subscription = hub_for(store).subscribe("j")
    told = events(store, subscription, 0, is_new=False)  # type: ignore[arg-type]
    next(told)
    subscription.close()
    assert list(told)[-1] == Closing()


def test_a_stopping_process_accepts_no_more_jobs() -> None:
    hub = hub_for(FakeStore(1))
    hub.end_streams()
    service: Any = SimpleNamespace(hub=hub)
    with Flask("test").test_request_context(), pytest.raises(Restarting):
        Answer(service, request, "j", is_background=True)


def test_a_client_that_may_have_disconnected_is_sent_a_keep_alive() -> None:
    store = FakeStore(1)
    subscription = hub_for(store).subscribe("j")
    subscription.probe()
    assert next(events(store, subscription, 0, is_new=True)) == Idle()  # type: ignore[arg-type]
