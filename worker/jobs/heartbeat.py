"""Two threads next to the engine's: one renews the lease and collects cancellations, one waits for wake-ups."""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

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


class Wake(Flag):
    """Set when the loop has work; `also` interrupts an engine that waits in a step."""

    def __init__(self, also: Callable[[], None]) -> None:
        super().__init__()
        self._also = also

    def set(self) -> None:
        super().set()
        self._also()


class Inbox:
    """Messages from the threads to the engine's loop: cancellations and wake-ups."""

    def __init__(self, interrupt: Callable[[], None] = lambda: None) -> None:
        self.wake = Wake(interrupt)
        self._cancels: deque[tuple[str, Failed]] = deque()

    def cancel(self, job_id: str, reason: Failed) -> None:
        self._cancels.append((job_id, reason))
        self.wake.set()

    def take_cancels(self) -> list[tuple[str, Failed]]:
        taken = []
        while self._cancels:
            taken.append(self._cancels.popleft())
        return taken


class Heartbeat(threading.Thread):
    """Renews the lease, reclaims jobs of dead workers, ends overdue ones. Exits the process when fenced."""

    def __init__(self, ledger: Ledger, inbox: Inbox, fields: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ledger = ledger
        self._inbox = inbox
        self._fields = fields
        self._stopping = threading.Event()
        self._last_fields: Mapping[str, Any] = {}
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
        try:
            self._last_fields = self._fields()
        except RedisError as error:  # the lease matters more than the report
            logger.warning("heartbeat: %s", error)
        for job_id, reason in self._ledger.renew(self._last_fields).items():
            self._inbox.cancel(job_id, decode_failed(reason))
        self._watch_ourselves()
        self._ledger.expire()
        if time.monotonic() >= self._may_reclaim_at and self._ledger.reclaim():
            self._inbox.wake.set()
        self._watch_redis()

    def _watch_redis(self) -> None:
        """An eviction policy that deletes jobs may be set at any time: logged once."""
        fault = memory_of(self._ledger.redis).fault
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
    """Reads the queue's control channel. A lost message costs a second: the loop checks by itself that often."""

    def __init__(self, redis: "Redis", ledger: Ledger, inbox: Inbox) -> None:
        super().__init__(name="listener", daemon=True)
        self._redis = redis
        self._ledger = ledger
        self._inbox = inbox

    def run(self) -> None:
        while True:
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(keys.CONTROL + self._ledger.queue)
                    while True:
                        message = pubsub.get_message(timeout=1.0)
                        if message is not None:
                            self.receive(message["data"])
            except (RedisError, OSError):
                threading.Event().wait(0.2)

    def receive(self, message: bytes) -> None:
        if message.startswith(keys.CANCEL.encode()):
            job_id = message.decode().removeprefix(keys.CANCEL)
            raw = self._redis.hget(keys.job_key(job_id), "cancel")
            if raw:
                self._inbox.cancel(job_id, decode_failed(raw))
        self._inbox.wake.set()
