"""The dispatcher's own processes: killed, stopped, beside receivers that hang or are down."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import rq.worker.base
from redis import Redis
from sqlalchemy import func, select

from common.records.database import Records
from common.records.schema import webhook_deliveries
from common.redis.keys import OUTBOX
from dispatcher.webhooks.pool import is_no_repetition
from tests.dispatcher.webhooks.rig import OWNER, add, record
from tests.receiver import HANG, Receiver

ROOT = Path(__file__).resolve().parents[3]


class Dispatcher:
    """`python -m dispatcher.main` with all pauses a thousandth: an hour is 3.6 s, 72 hours are 259 s."""

    def __init__(self, folder: Path, redis_url: str, scale: float = 0.001) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
        values = {"OMNI_DATA_DIR": str(folder), "OMNI_WEBHOOK_HOSTS": "127.0.0.0/8", "OMNI_MODEL": "demo"}
        self.environment = {**inherited, **values, "REDIS_URL": redis_url}
        self.command = [sys.executable, "-m", "dispatcher.main", "--webhook-scale", str(scale)]
        self.records = Records(f"sqlite:///{folder}/omni.db")
        self.log = folder / "dispatcher.log"

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        return self.process

    def kill(self) -> None:
        """kill -9 of the dispatcher alone: its children must end by themselves."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        assert not psutil.wait_procs(children, timeout=5)[1]

    def count(self, state: str) -> int:
        with self.records.read() as connection:
            query = select(func.count()).where(webhook_deliveries.c.state == state)
            return connection.execute(query).scalar_one()

    def pending(self) -> list[tuple[int, float, float]]:
        """(attempts, seconds until the next, seconds since it was handed to RQ) of each delivery that waits."""
        now = time.time()
        with self.records.read() as connection:
            query = select(webhook_deliveries).where(webhook_deliveries.c.state == "pending")
            return [(row.attempts, row.due - now, now - row.handed) for row in connection.execute(query)]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 40) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (self.pending(), self.log.read_text()[-4000:])
            time.sleep(0.02)


@pytest.fixture
def dispatcher(tmp_path: Path, redis: Redis, valkey_url: str) -> Iterator[Dispatcher]:
    made = Dispatcher(tmp_path, valkey_url)
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGTERM)
        made.process.wait(10)


def test_no_event_is_lost_by_kills_an_emptied_redis_and_a_receiver_that_is_down(
    dispatcher: Dispatcher, redis: Redis
) -> None:
    """Events come from the outbox and from SQL; the receiver is down for an hour of the schedule at first."""
    with Receiver() as receiver:
        add(dispatcher.records, receiver.url())
        receiver.answers["/hook"] = 503
        for number in range(100):
            end_job(redis, f"resp_{number}")
        record(dispatcher.records, *(f"batch_{number}" for number in range(100)))
        dispatcher.start()
        down_until = time.monotonic() + 3.6
        for empties_redis in (False, True):
            dispatcher.wait_for(lambda: len(receiver.all) > 2 and not redis.xlen(OUTBOX))
            dispatcher.kill()
            if empties_redis:
                redis.flushall()
            receiver.all.clear()
            dispatcher.start()
        time.sleep(max(0.0, down_until - time.monotonic()))
        receiver.answers["/hook"] = 200
        dispatcher.wait_for(lambda: dispatcher.count("delivered") == 200)
        assert len(receiver.ids()) == 200 and dispatcher.count("failed") == 0


def test_a_hanging_receiver_holds_up_nobody_else(dispatcher: Dispatcher) -> None:
    with Receiver() as receiver:
        add(dispatcher.records, receiver.url("/hangs"), event_types=["batch.failed"])
        add(dispatcher.records, receiver.url("/good"), event_types=["batch.completed"])
        receiver.answers["/hangs"] = HANG
        record(dispatcher.records, *(f"bad_{number}" for number in range(100)), type="batch.failed")
        record(dispatcher.records, *(f"good_{number}" for number in range(50)))
        dispatcher.start()
        dispatcher.wait_for(lambda: bool(receiver.all))
        dispatcher.wait_for(lambda: dispatcher.count("delivered") == 50)


def is_zombie(process: psutil.Process) -> bool:
    """It has ended; the first process of a container may reap nobody."""
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def test_sigterm_stops_all_processes_in_time(dispatcher: Dispatcher) -> None:
    with Receiver() as receiver:
        add(dispatcher.records, receiver.url())
        receiver.answers["/hook"] = HANG
        record(dispatcher.records, "batch_1")
        process = dispatcher.start()
        dispatcher.wait_for(lambda: bool(receiver.all))
        children = psutil.Process(process.pid).children(recursive=True)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(4) == 0
        left = psutil.wait_procs(children, timeout=1)[1]
        assert not [child for child in left if not is_zombie(child)] and time.monotonic() - began < 4
        assert len(children) == 5


def test_workers_do_not_repeat_that_redis_is_away() -> None:
    said = re.findall(r"'(Worker %s: could not connect [^']*)'", Path(rq.worker.base.__file__).read_text())
    assert said
    for text, is_said in (*((text, False) for text in said), ("Worker %s: killed", True)):
        assert is_no_repetition(logging.LogRecord("rq.worker", logging.ERROR, "", 0, text, ("w",), None)) is is_said


def end_job(redis: Redis, job_id: str) -> Any:
    """As finish() in lib.lua tells it."""
    now = int(time.time() * 1000)
    fields = {"id": job_id, "owner": OWNER, "kind": "response", "state": "finished", "background": 1, "model": "m"}
    return redis.xadd(OUTBOX, {**fields, "ended": now, "finish_reason": "stop"})
