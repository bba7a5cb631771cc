"""RQ's workers, each a process: forked before the dispatcher has threads, and restarted when they end.

The dispatcher forks one child, the pool, which forks the workers. Each dies with its parent, whatever kills that.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from common.process.processes import die_with_parent, set_process_name
from common.records.database import Records
from common.redis.connection import connect
from common.settings import Settings
from common.webhooks.addresses import AddressRules
from dispatcher.webhooks.deliver import Deliverer
from dispatcher.webhooks.jobs import DELIVER, KEEP_HOUSE, NUM_WORKERS, again_after, job_class, webhook_queue
from dispatcher.webhooks.schedule import Schedule

logger = logging.getLogger("omni.webhooks")

STOP_S = 1.2  # from SIGTERM to SIGKILL: what is not sent by then is sent again
RESTART_S = 1.0
POLL_S = 0.1
WORKER_TTL_S = 30  # also how long a worker may take to notice that a connection is dead
MAX_WAIT_S = 5.0  # for Redis to come back, between two tries
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Chores = Callable[[Settings, Records], None]


class WebhookWorkers:
    """The pool, as its parent sees it. A task of the dispatcher (dispatcher/task.py): it fails when the pool ends."""

    name = "webhook workers"

    def __init__(self, settings: Settings, chores: Chores, schedule: Schedule) -> None:
        """`chores`: the housekeeping, run in a worker every few minutes."""
        self._settings = settings
        self._chores = chores
        self._schedule = schedule
        self._pid = 0

    def start(self) -> None:
        """Fork the pool. Call before this process starts a thread or opens a connection."""
        self._pid = os.fork()
        if self._pid == 0:
            run_child(lambda: run_pool(lambda: work(self._settings, self._chores, self._schedule)))

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(POLL_S):
            if has_ended(self._pid):
                raise RuntimeError("the pool of webhook workers has ended")
        os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S + 0.4
        while not has_ended(self._pid) and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)


def run_child(run: Callable[[], None]) -> None:
    """The life of a forked process: it never returns into its parent's code."""
    status = 1
    try:
        die_with_parent(signal.SIGKILL)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        run()
        status = 0
    except KeyboardInterrupt:
        status = 0
    except BaseException:
        logger.exception("a process of the webhooks ends")
    finally:
        logging.shutdown()
        os._exit(status)


def run_pool(run_worker: Callable[[], None]) -> None:
    """Keep NUM_WORKERS workers running until SIGTERM."""
    set_process_name("omni-webhooks")
    stopping = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    workers: set[int] = set()
    started = float("-inf")
    while not stopping.is_set():
        workers = {pid for pid in workers if not has_ended(pid)}
        if len(workers) < NUM_WORKERS and time.monotonic() - started > RESTART_S:
            workers |= {fork_worker(run_worker) for _ in range(NUM_WORKERS - len(workers))}
            started = time.monotonic()
        stopping.wait(POLL_S)
    stop(workers)


def fork_worker(run_worker: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        run_child(run_worker)
    return pid


def stop(workers: set[int]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while workers and time.monotonic() < deadline:
        time.sleep(POLL_S / 2)
        workers = {pid for pid in workers if not has_ended(pid)}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Reaps a child. True from its end on."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def work(settings: Settings, chores: Chores, schedule: Schedule) -> None:
    """One RQ worker, until SIGTERM or until Redis breaks off a command; the pool then starts the next."""
    set_process_name("omni-webhook")
    records = Records(settings.store_url)
    deliverer = Deliverer(records, AddressRules.of(settings.store.webhook_hosts), schedule)
    redis = connect(settings.redis.url)
    wait_for_redis(redis)
    tasks: Mapping[str, Callable[..., Any]] = {
        DELIVER: lambda delivery_id: again_after(deliverer.deliver(delivery_id)),
        KEEP_HOUSE: lambda: chores(settings, records),
    }
    worker = SimpleWorker(
        [webhook_queue(redis)],
        name=f"omni-webhooks-{uuid4().hex[:12]}",
        connection=redis,
        serializer=JSONSerializer,
        job_class=job_class(tasks),
        worker_ttl=WORKER_TTL_S,
        log_job_description=False,
    )
    worker.max_connection_wait_time = MAX_WAIT_S
    worker.log.addFilter(is_no_repetition)
    try:
        worker.work(logging_level="ERROR")
    except RedisError as error:
        logger.info("a worker of the webhooks ends: %s", error)


def is_no_repetition(record: logging.LogRecord) -> bool:
    """False for what RQ's workers say every few seconds while Redis is away: the dispatcher's tasks say it once."""
    return "could not connect to Redis" not in record.msg


def wait_for_redis(redis: Redis) -> None:
    while True:
        try:
            redis.ping()
            return
        except RedisError:
            time.sleep(RESTART_S)
