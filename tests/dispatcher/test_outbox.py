"""Each ended job counts exactly once, whatever dies: the consumer, Redis, or the database."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from common.outbox.entries import EndedJob
from common.outbox.stream import Outbox
from common.records.database import Records
from common.redis import keys
from dispatcher.lease import LeaseLost
from dispatcher.outbox import APPLIERS, OutboxConsumer
from tests.dispatcher.outboxes import PAGE, end_jobs, ledger_of, no_check, sums

ROOT = Path(__file__).resolve().parents[2]


def consumer_of(redis: "Redis", records: Records, *more: Any) -> OutboxConsumer:
    return OutboxConsumer(Outbox(redis), records, no_check, (*APPLIERS, *more))


def drain(consumer: OutboxConsumer) -> None:
    while consumer.apply_page() is None:
        pass


def test_every_ended_job_counts_once_and_the_stream_is_trimmed(redis: "Redis", records: Records) -> None:
    jobs = end_jobs(redis, 40)
    consumer = consumer_of(redis, records)
    drain(consumer)
    drain(consumer)
    assert ledger_of(records) == sums(jobs)
    assert redis.xlen(keys.OUTBOX) == 0
    more = end_jobs(redis, 3, seed=2)
    drain(consumer_of(redis, records))
    assert ledger_of(records) == sums(jobs + more)


def die_and_drain(valkey_url: str, store_url: str, *more: str) -> None:
    command = [sys.executable, "-m", "tests.dispatcher.outboxes", valkey_url, store_url, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20, "places to die at"


def test_a_consumer_that_is_killed_at_every_statement_counts_each_job_once(
    redis: "Redis", store_url: str, valkey_url: str
) -> None:
    records = Records(store_url)
    records.engine()
    jobs = end_jobs(redis, 8 * PAGE)
    die_and_drain(valkey_url, store_url)
    assert ledger_of(records) == sums(jobs)


def test_the_control_which_saves_the_position_apart_counts_wrong(
    redis: "Redis", tmp_path: Path, valkey_url: str
) -> None:
    records = Records(f"sqlite:///{tmp_path}/omni.db")
    records.engine()
    jobs = end_jobs(redis, 8 * PAGE)
    die_and_drain(valkey_url, records.url, "apart")
    assert ledger_of(records) != sums(jobs)


def test_two_consumers_at_once_count_each_job_once(redis: "Redis", records: Records) -> None:
    records.engine()
    jobs = end_jobs(redis, 60)
    consumers = [consumer_of(redis, records) for _ in range(3)]
    for consumer in consumers:
        consumer._page = PAGE
    threads = [threading.Thread(target=drain, args=(consumer,)) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ledger_of(records) == sums(jobs)


def test_after_redis_was_emptied_new_jobs_count_even_if_its_clock_went_back(redis: "Redis", records: Records) -> None:
    jobs = end_jobs(redis, 5)
    drain(consumer_of(redis, records))
    redis.flushall()
    [earlier] = end_jobs(redis, 1, seed=2)
    redis.delete(keys.OUTBOX)
    redis.xadd(keys.OUTBOX, earlier, id="1000-0")
    drain(consumer_of(redis, records))
    assert ledger_of(records) == sums([*jobs, earlier])
    more = end_jobs(redis, 5, seed=3)
    drain(consumer_of(redis, records))
    assert ledger_of(records) == sums([*jobs, earlier, *more])


def test_entries_that_come_back_with_an_older_redis_do_not_count_again(redis: "Redis", records: Records) -> None:
    """Redis lost its last second, and with it the trimming."""
    jobs = end_jobs(redis, 5)
    entries = redis.xrange(keys.OUTBOX)
    drain(consumer_of(redis, records))
    redis.delete(keys.OUTBOX)
    for entry, fields in entries:
        redis.xadd(keys.OUTBOX, fields, id=entry)
    drain(consumer_of(redis, records))
    assert ledger_of(records) == sums(jobs)


def test_an_entry_that_cannot_be_applied_costs_itself_only(
    redis: "Redis", records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(_: Connection, jobs: Sequence[EndedJob]) -> None:
        if any(job.id == "job-1-7" for job in jobs):
            raise ValueError("a fault of ours")

    jobs = end_jobs(redis, 20)
    drain(consumer_of(redis, records, picky))
    assert ledger_of(records) == sums([job for job in jobs if job["id"] != "job-1-7"])
    assert "job-1-7" in caplog.text


def test_a_consumer_that_has_lost_its_lease_changes_nothing_and_ends(redis: "Redis", records: Records) -> None:
    def lost(_: Any) -> None:
        raise LeaseLost("taken away")

    end_jobs(redis, 1)
    with pytest.raises(LeaseLost):
        OutboxConsumer(Outbox(redis), records, lost).run(threading.Event())
    assert ledger_of(records) == {} and redis.xlen(keys.OUTBOX) == 1


def test_it_tells_of_a_page_after_its_commit(redis: "Redis", records: Records) -> None:
    seen: list[tuple[int, int]] = []

    def committed(jobs: Sequence[EndedJob]) -> None:
        seen.append((len(jobs), sum(row[0] for row in ledger_of(records).values())))

    end_jobs(redis, 5)
    drain(OutboxConsumer(Outbox(redis), records, no_check, committed=committed))
    assert seen == [(5, 5)]


@pytest.mark.parametrize(
    "error", [RedisConnectionError("gone"), OperationalError("", {}, Exception("locked"))], ids=["redis", "database"]
)
def test_while_redis_or_the_database_is_away_it_waits_and_then_goes_on(
    redis: "Redis", records: Records, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("dispatcher.outbox.AWAY_S", 0.01)
    failures, is_applied, stopping = [error] * 3, threading.Event(), threading.Event()

    def away(*_: Any) -> None:
        if failures:
            raise failures.pop()
        is_applied.set()

    jobs = end_jobs(redis, 5)
    consumer = consumer_of(redis, records, away)
    thread = threading.Thread(target=consumer.run, args=(stopping,))
    thread.start()
    assert is_applied.wait(10)
    stopping.set()
    thread.join(5)
    assert not thread.is_alive() and not failures
    assert ledger_of(records) == sums(jobs)


def test_it_wakes_for_a_job_that_ends_later(redis: "Redis", records: Records) -> None:
    seen, stopping = threading.Event(), threading.Event()
    thread = threading.Thread(target=consumer_of(redis, records, lambda *_: seen.set()).run, args=(stopping,))
    thread.start()
    end_jobs(redis, 1)
    assert seen.wait(10)
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()


def test_the_outbox_tells_what_is_not_applied_yet(redis: "Redis", records: Records) -> None:
    outbox = Outbox(redis)
    assert outbox.last() == "" and outbox.applied_until() is None
    end_jobs(redis, 2)
    last = outbox.last()
    assert not outbox.is_applied(last) and outbox.applied_until() is not None
    drain(consumer_of(redis, records))
    assert outbox.is_applied(last) and outbox.last() == "" and outbox.applied_until() is None
