"""Two threads next to the loop's: one renews leases and collects cancellations, one waits for wake-ups."""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import RedisError

from common.flag import Flag
from common.process.child import EXIT_TRY_AGAIN
from common.redis import keys
from common.redis.server import memory_of
from common.wire import Failed
from common.wire_codec import decode_failed
from worker.jobs.ledger import Fenced, Ledger

logger = logging.getLogger("omni.worker")

LEASE_S = keys.LEASE_MS / 1000


class Inbox:
    """Messages from the threads to the loop, for one model: cancellations and wake-ups."""

    def __init__(self, loop: Flag, interrupt: Callable[[], None] = lambda: None) -> None:
        self._loop = loop  # set when the loop has work for any of its models
        self._interrupt = interrupt  # of an engine that waits in a step
        self._has_moved = False
        self._cancels: deque[tuple[str, Failed]] = deque()
        self._adapts = threading.Event()
        self._orders = threading.Event()

    def wake(self) -> None:
        """The queue may have changed. Safe in a signal handler."""
        self._has_moved = True
        self._loop.set()
        self._interrupt()

    def cancel(self, job_id: str, reason: Failed) -> None:
        self._cancels.append((job_id, reason))
        self.wake()

    def adapt(self) -> None:
        """The list of adapters may have changed."""
        self._adapts.set()
        self.wake()

    def order(self) -> None:
        """There may be orders for the shelf."""
        self._orders.set()
        self.wake()

    def take_ordered(self) -> bool:
        if is_set := self._orders.is_set():  # as below
            self._orders.clear()
        return is_set

    def take_moved(self) -> bool:
        if has_moved := self._has_moved:  # otherwise a message that comes now would be cleared
            self._has_moved = False
        return has_moved

    def take_adapt(self) -> bool:
        if is_set := self._adapts.is_set():  # the same
            self._adapts.clear()
        return is_set

    def take_cancels(self) -> list[tuple[str, Failed]]:
        taken = []
        while self._cancels:
            taken.append(self._cancels.popleft())
        return taken


class Tended(Protocol):
    """One queue of this worker."""

    ledger: Ledger
    inbox: Inbox

    def report(self) -> Mapping[str, Any]: ...


class Heartbeat(threading.Thread):
    """Renews the leases, reclaims jobs of dead workers, ends overdue ones. Exits the process when fenced."""

    def __init__(self, models: Sequence[Tended], also: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._models = models
        self._also = also  # done with each beat
        self._stopping = threading.Event()
        self._last_fields: dict[str, Mapping[str, Any]] = {}  # by queue
        self._renewed = -math.inf
        self._may_reclaim_at = 0.0
        self._logged_fault = ""

    def run(self) -> None:
        while not self._stopping.wait(keys.RENEW_S):
            try:
                self.beat()
            except Fenced as error:
                if self._stopping.is_set():
                    return
                logger.error("%s: this process was replaced and ends", error)
                os._exit(EXIT_TRY_AGAIN)
            except RedisError as error:
                logger.warning("heartbeat: %s", error)

    def beat(self) -> None:
        self._tell(self._also)
        for model in self._models:
            self._renew(model)
        self._watch_ourselves()
        for model in self._models:
            model.ledger.expire()
            if time.monotonic() >= self._may_reclaim_at and model.ledger.reclaim():
                model.inbox.wake()
        self._watch_redis()

    def _renew(self, model: Tended) -> None:
        def report() -> None:
            self._last_fields[model.ledger.queue] = model.report()

        self._tell(report)
        cancelled = model.ledger.renew(self._last_fields.get(model.ledger.queue, {}))
        for job_id, reason in cancelled.items():
            model.inbox.cancel(job_id, decode_failed(reason))

    def _tell(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except RedisError as error:  # the leases matter more than the reports
            logger.warning("heartbeat: %s", error)

    def _watch_redis(self) -> None:
        """An eviction policy that deletes jobs may be set at any time: logged once."""
        fault = memory_of(self._models[0].ledger.redis).fault
        if fault and fault != self._logged_fault:
            logger.error("%s", fault)
        self._logged_fault = fault

    def _watch_ourselves(self) -> None:
        """If our own lease may have expired, others may have too (Redis was away): let live workers renew first."""
        now = time.monotonic()
        if now - self._renewed > LEASE_S:
            self._may_reclaim_at = now + 2 * keys.RENEW_S
        self._renewed = now

    def stop(self) -> None:
        self._stopping.set()


class Listener(threading.Thread):
    """Reads the queues' control channels. A lost message costs a second: the loop checks by itself that often."""

    def __init__(self, redis: "Redis", models: Sequence[Tended]) -> None:
        super().__init__(name="listener", daemon=True)
        self._redis = redis
        self._inboxes = {f"{keys.CONTROL}{model.ledger.queue}".encode(): model.inbox for model in models}

    def run(self) -> None:
        while True:
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(*self._inboxes)
                    while True:
                        message = pubsub.get_message(timeout=1.0)
                        if message is not None:
                            self.receive(self._inboxes[message["channel"]], message["data"])
            except (RedisError, OSError):
                threading.Event().wait(0.2)

    def receive(self, inbox: Inbox, message: bytes) -> None:
        if message.startswith(keys.CANCEL.encode()):
            job_id = message.decode().removeprefix(keys.CANCEL)
            raw = self._redis.hget(keys.job_key(job_id), "cancel")
            if raw:
                inbox.cancel(job_id, decode_failed(raw))
        if message == keys.ADAPT.encode():
            inbox.adapt()
        if message == keys.ORDERED.encode():
            inbox.order()
        inbox.wake()
