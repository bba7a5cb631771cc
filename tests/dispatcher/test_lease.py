"""One dispatcher at a time: a lease in Redis, and a fence in SQL for those that have not noticed its loss."""

import os
import subprocess
import threading

import pytest
from redis import Redis

from common.records.database import Records
from common.redis import keys
from dispatcher.lease import Lease, LeaseLost
from dispatcher.task import Task, run_all

NEVER = threading.Event()


@pytest.fixture
def first(redis: "Redis", records: Records) -> Lease:
    lease = Lease(redis, records)
    assert lease.take(NEVER)
    return lease


def may_write(lease: Lease, records: Records) -> bool:
    try:
        with records.begin() as connection:
            lease.check(connection)
    except LeaseLost:
        return False
    return True


def test_a_second_dispatcher_waits_until_the_first_gives_up(redis, records, first) -> None:
    second, stopping = Lease(redis, records), threading.Event()
    waiting = threading.Thread(target=second.run, args=(stopping,))
    waiting.start()
    assert not second._is_held.wait(0.1)
    first.give_up()
    assert second.wait(stopping)
    assert (may_write(first, records), may_write(second, records)) == (False, True)
    stopping.set()
    waiting.join()


def test_who_has_lost_the_lease_in_redis_writes_nothing_more(redis, records, first) -> None:
    redis.delete(keys.DISPATCHER)  # it ran out while the process was paused
    second = Lease(redis, records)
    assert second.take(NEVER)
    assert not may_write(first, records)
    with pytest.raises(LeaseLost):
        first.renew()
    second.renew()
    assert may_write(second, records)


def test_a_flushed_redis_gives_no_fence_twice(redis, records, first) -> None:
    redis.flushall()
    second = Lease(redis, records)
    assert second.take(NEVER)
    assert second.fence > first.fence and not may_write(first, records)


def test_a_lease_is_not_given_back_by_another(redis, records, first) -> None:
    Lease(redis, records).give_up()
    first.renew()
    assert redis.pttl(keys.DISPATCHER) > 1000


def test_a_dead_process_of_this_machine_is_not_waited_for(redis, records, monkeypatch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr("dispatcher.lease.os.getpid", lambda: dead.pid)
    assert Lease(redis, records).take(NEVER)
    monkeypatch.undo()
    assert Lease(redis, records).take(NEVER)
    assert redis.get(keys.DISPATCHER).decode().split(":")[-2] == str(os.getpid())


@pytest.mark.parametrize("holder", ["elsewhere/pid:[1]:1:a", "text", ":"])
def test_who_holds_it_elsewhere_is_waited_for(redis, records, holder) -> None:
    redis.set(keys.DISPATCHER, holder)
    stopping = threading.Event()
    threading.Timer(0.1, stopping.set).start()
    assert not Lease(redis, records).take(stopping)


def test_a_lost_lease_ends_the_process_so_that_it_starts_again(redis, records, monkeypatch) -> None:
    monkeypatch.setattr("dispatcher.lease.RENEW_S", 0.01)
    signals = threading.Event()
    monkeypatch.setattr("dispatcher.task.os.kill", lambda *_: signals.set())
    monkeypatch.setattr("dispatcher.task.signal.sigwait", lambda _: signals.wait())
    lease, begun = Lease(redis, records), threading.Event()

    class Waits:
        name = "a task"

        def run(self, stopping: threading.Event) -> None:
            begun.set()
            redis.set(keys.DISPATCHER, "another")
            stopping.wait()

    tasks: list[Task] = [Waits()]
    assert run_all(lease, tasks) == 1
    assert begun.is_set()
