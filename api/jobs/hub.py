"""EventHub: the one Redis subscription of this process; hands log entries to the waiting requests by job id.

Pub/sub wakes a request, the log is the truth: a request that finds a gap, or learns from the sweep that the log is
longer than what it has received, reads the log. The sweep polls the jobs of all requests in one script every second.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import orjson
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from api.jobs.subscription import Subscription
from api.prompt.shelf import ShelfReader
from common.redis import keys
from common.redis.job_log import LogEntry
from common.redis.store import Store
from common.wire_codec import decode_event

logger = logging.getLogger("omni.api")

SWEEP_S = 1.0
SWEEP_JOBS = 500  # polled by one script
PING_AFTER_S = 2.0  # ping the Redis subscription after this long without a message
RETRY_S = 0.2


class EventHub:
    """Owns the subscriptions of this process. Call start() once, after the fork."""

    def __init__(self, store: Store, redis: "Redis") -> None:
        self.store = store
        self.redis = redis
        self.shelf = ShelfReader(redis)
        self.is_redis_up = False
        self.is_closing = False
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._periodic_tasks: Sequence[Callable[[], None]] = ()

    def start(self, periodic_tasks: Sequence[Callable[[], None]] = ()) -> None:
        """Listen and sweep from now on. The tasks run with every sweep."""
        self._periodic_tasks = periodic_tasks
        gevent.spawn(self._listen)
        gevent.spawn(self._sweep_every_second)

    def subscribe(self, job_id: str) -> Subscription:
        subscription = Subscription(job_id)
        subscription.is_closing = self.is_closing
        self._subscriptions.setdefault(job_id, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> bool:
        """True if no other request of this process waits for the job."""
        others = self._subscriptions.get(subscription.job_id, [])
        if subscription in others:
            others.remove(subscription)
        if not others:
            self._subscriptions.pop(subscription.job_id, None)
        return not others

    def end_streams(self) -> None:
        """Accept no more jobs and end open streams so that they can be resumed, before the process stops."""
        self.is_closing = True
        self._close(lambda subscription: not subscription.waits_for_end)

    def stop(self) -> None:
        """End all waiting, also for answers that are not streamed."""
        self.is_closing = True
        self._close(lambda _: True)

    def _close(self, is_meant: Callable[[Subscription], bool]) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in filter(is_meant, subscriptions):
                subscription.close()

    def dispatch(self, message: bytes) -> None:
        """Hand on the log entries of one engine step: [[job id, seq, event], ...]."""
        for job_id, seq, fields in orjson.loads(message):
            if subscriptions := self._subscriptions.get(job_id):
                entry = LogEntry(seq, decode_event(fields))
                for subscription in subscriptions:
                    subscription.push(entry)

    def sweep(self) -> None:
        """Update every subscription's status, admit and expire jobs, run the periodic tasks."""
        waiting = list(self._subscriptions)
        for start in range(0, len(waiting), SWEEP_JOBS):
            self._update(waiting[start : start + SWEEP_JOBS])
        for queue in set(self.store.directory.models().values()):
            self.store.expire(queue)
        for task in self._periodic_tasks:
            task()

    def _update(self, job_ids: Sequence[str]) -> None:
        shelf = self.shelf.entries()
        for job_id, status in zip(job_ids, self.store.poll(job_ids), strict=True):
            for subscription in self._subscriptions.get(job_id, ()):
                subscription.update(status, shelf.get(status.queue))

    def _wake_all(self) -> None:
        """Wake every subscription, so that quiet streams send keep-alives also while Redis is away."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.wake.set()

    def _listen(self) -> None:
        has_subscribed = True  # log the loss of Redis once, not at every retry
        while True:
            try:
                with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(keys.EVENTS)
                    has_subscribed = True
                    self._dispatch_all(pubsub)
            except (RedisError, OSError) as error:
                if has_subscribed:
                    logger.warning("the subscription to Redis broke (%s); subscribing again", error)
                has_subscribed = False
                gevent.sleep(RETRY_S)
            except Exception:
                logger.exception("the subscription to Redis failed unexpectedly; subscribing again")
                gevent.sleep(SWEEP_S)

    def _dispatch_all(self, pubsub: Any) -> None:
        """Raises RedisError when the connection breaks or does not answer a ping (it is half-open)."""
        has_pinged = False
        while True:
            message: dict[str, Any] | None = pubsub.get_message(timeout=PING_AFTER_S)
            if message is None:
                if has_pinged:
                    raise RedisConnectionError("no answer")
                pubsub.ping()
                has_pinged = True
                continue
            has_pinged = False
            if message["type"] == "message":
                self.dispatch(message["data"])

    def _sweep_every_second(self) -> None:
        while True:
            try:
                self.sweep()
                self.is_redis_up = True
            except (RedisError, OSError) as error:
                if self.is_redis_up:
                    logger.warning("Redis does not answer (%s); waiting for it", error)
                self.is_redis_up = False
            except Exception:
                logger.exception("a sweep failed unexpectedly")
            self._wake_all()
            gevent.sleep(SWEEP_S)
