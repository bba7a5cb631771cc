"""Gives deliveries to RQ: new ones, and those that RQ has lost. Runs RQ's scheduler for the ones that wait."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from common.errors import Unavailable
from common.records.database import Connection, Records, StoreError
from common.records.deliveries import leased, mark_handed, new_deliveries, overdue_deliveries
from common.setting_types import WEBHOOK_QUEUE
from dispatcher.webhooks.jobs import (
    KEEP_HOUSE,
    enqueue_delivery,
    free_places,
    held_places,
    replace_delivery,
    waits_in_rq,
    webhook_queue,
)
from dispatcher.webhooks.schedule import Schedule

logger = logging.getLogger("omni.webhooks")

TICK_S = 0.5
PAUSE_S = 2.0  # after an error of Redis or the database
SWEEP_S = 5.0
HOUSEKEEPING_S = 300.0
HOUSEKEEPING_TIMEOUT_S = 240
PAGE = 500


class FeedScheduler(RQScheduler):  # type: ignore[misc]
    """RQ's scheduler in a thread of this process, with its connection: one that was made for Sentinel cannot be copied.

    Its name is always the same, because only one dispatcher works at a time: after a crash the next one has its locks.
    """

    def __init__(self, redis: Redis) -> None:
        super().__init__([WEBHOOK_QUEUE], redis, logging_level=logging.WARNING, serializer=JSONSerializer,
                         name="omni-dispatcher")  # fmt: skip
        self._redis = redis

    @property
    def connection(self) -> Redis:
        return self._redis

    def tick(self) -> None:
        if not self.acquired_locks:
            self.acquire_locks()
        self.heartbeat()
        self.enqueue_scheduled_jobs()


class WebhookFeed:
    """A task of the dispatcher (dispatcher/task.py)."""

    name = "webhooks"

    def __init__(self, records: Records, redis: Redis, check: Callable[[Connection], None], schedule: Schedule) -> None:
        """`check` begins each transaction that writes: Lease.check."""
        self._records = records
        self._check = check
        self._redis = redis
        self._schedule = schedule
        self._queue: Queue = webhook_queue(redis)
        self._scheduler = FeedScheduler(redis)
        self._swept = float("-inf")
        self._kept_house = float("-inf")

    def run(self, stopping: threading.Event) -> None:
        is_away = False
        while not stopping.wait(PAUSE_S if is_away else TICK_S):
            try:
                self.tick()
                is_away = False
            except (RedisError, StoreError, Unavailable) as error:
                if not is_away:
                    logger.warning("webhooks wait: %s", error)
                is_away = True

    def tick(self) -> None:
        self._scheduler.tick()
        self.hand_new()
        if time.monotonic() - self._swept >= SWEEP_S:
            self.find_lost()
            self._swept = time.monotonic()
        if time.monotonic() - self._kept_house >= HOUSEKEEPING_S:
            self._keep_house()
            self._kept_house = time.monotonic()

    def hand_new(self) -> int:
        """Enqueue new deliveries. Killed in between, some are enqueued again: under the same ids."""
        with self._records.read() as connection:
            found = new_deliveries(connection, PAGE)
        for delivery_id, endpoint_id in found:
            enqueue_delivery(self._queue, delivery_id, endpoint_id)
        self._mark(found)
        return len(found)

    def find_lost(self) -> int:
        """Enqueue again what is overdue and unknown to RQ: Redis was emptied, or a worker was killed."""
        with self._records.read() as connection:
            found = overdue_deliveries(connection, time.time() - self._schedule.grace_s, PAGE)
        for endpoint_id in {endpoint_id for _, endpoint_id in found}:
            self._free_places(endpoint_id)
        lost = [row for row in found if not waits_in_rq(self._queue, *row)]
        for delivery_id, endpoint_id in lost:
            replace_delivery(self._queue, delivery_id, endpoint_id)
        if lost:
            logger.warning("%d deliveries of webhooks were lost on their way and are enqueued again", len(lost))
        self._mark(found)
        return len(lost)

    def _free_places(self, endpoint_id: str) -> None:
        """Of workers that were killed: what they had is done in SQL, or its lease is over."""
        held = held_places(self._queue, endpoint_id)
        with self._records.read() as connection:
            live = leased(connection, held, time.time() - self._schedule.grace_s)
        if dead := [delivery_id for delivery_id in held if delivery_id not in live]:
            free_places(self._queue, dead, endpoint_id)

    def _mark(self, found: Sequence[Sequence[str]]) -> None:
        if found:
            with self._records.begin() as connection:
                self._check(connection)
                mark_handed(connection, [delivery_id for delivery_id, _ in found], time.time())

    def _keep_house(self) -> None:
        """A job that is still queued or running is not enqueued again. One that failed leaves nothing in RQ's records,
        which `unique` goes by: the next comes at its usual time."""
        try:
            self._queue.enqueue_call(
                KEEP_HOUSE,
                job_id="omni-housekeeping",
                description=KEEP_HOUSE,
                timeout=HOUSEKEEPING_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=0,
                unique=True,
            )
        except DuplicateJobError:
            logger.debug("housekeeping still waits or runs")
