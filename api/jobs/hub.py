"""EventHub: this process's one subscription, handed to the waiting requests by job id.

Pub/sub wakes, the log is the truth: a reader that finds a gap, or is told by the sweep that its job's log is longer
than what it has seen, reads the log. The sweep runs every second for all readers in one script.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import orjson
from gevent.event import Event as Wake
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from common.redis import keys
from common.redis.job_log import LogEntry
from common.redis.store import JobStatus, Store
from common.wire import decode_event

logger = logging.getLogger("omni.api")

MAX_LIVE_ROWS = 64
SWEEP_S = 1.0
SWEEP_JOBS = 500
SILENCE_S = 2.0  # after so long a subscription is asked whether it still stands


class Reader:
    """What one waiting request has been told; bounded, because the log can always be read again."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.wake = Wake()
        self.look = JobStatus("queued", 0, -1)
        self.is_told = False  # whether `look` is news
        self.told_position = -1  # the place in line that its caller knows of
        self.told_at = time.monotonic()  # when its caller last heard anything
        self.is_client_gone = False
        self.must_speak = False  # its caller is to be sent something, to learn whether it still reads
        self.is_for_the_whole = False  # its caller has been sent nothing yet: it is closed last
        self.is_closing = False
        self._rows: deque[LogEntry] = deque()

    def push(self, row: LogEntry) -> None:
        if len(self._rows) >= MAX_LIVE_ROWS:
            self._rows.clear()  # the reader is slow: it will find the gap and read the log
        self._rows.append(row)
        self.wake.set()

    def take(self) -> list[LogEntry]:
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def tell(self, look: JobStatus) -> None:
        self.look = look
        self.is_told = True
        self.wake.set()

    def speak(self) -> None:
        self.must_speak = True
        self.wake.set()

    def client_gone(self) -> None:
        self.is_client_gone = True
        self.wake.set()

    def close(self) -> None:
        self.is_closing = True
        self.wake.set()


class EventHub:
    """Owns the readers of this process. start() once, after the fork."""

    def __init__(self, store: Store, redis: "Redis", queue: str) -> None:
        self.store = store
        self.redis = redis
        self.queue = queue
        self.seconds_per_place = 1.0  # how long the line takes to move by one
        self.is_redis_up = False
        self.is_closing = False
        self._readers: dict[str, list[Reader]] = {}
        self._periodic_tasks: Sequence[Callable[[], None]] = ()

    def start(self, periodic_tasks: Sequence[Callable[[], None]] = ()) -> None:
        """Subscribe and sweep from now on. Call once, after the fork. The tasks run with every sweep."""
        self._periodic_tasks = periodic_tasks
        gevent.spawn(self._listen)
        gevent.spawn(self._sweep_every_second)

    def open(self, job_id: str) -> Reader:
        reader = Reader(job_id)
        reader.is_closing = self.is_closing
        self._readers.setdefault(job_id, []).append(reader)
        return reader

    def close(self, reader: Reader) -> bool:
        """Forget a reader; True if it was this process's last one of its job."""
        others = self._readers.get(reader.job_id, [])
        if reader in others:
            others.remove(reader)
        if not others:
            self._readers.pop(reader.job_id, None)
        return not others

    def end_streams(self) -> None:
        """This process is about to leave: it takes no more jobs, and open streams say so or can be resumed."""
        self.is_closing = True
        self._close(lambda reader: not reader.is_for_the_whole)

    def stop(self) -> None:
        """End all waiting, also for whole answers."""
        self.is_closing = True
        self._close(lambda _: True)

    def _close(self, is_meant: Callable[[Reader], bool]) -> None:
        for readers in self._readers.values():
            for reader in filter(is_meant, readers):
                reader.close()

    @property
    def num_readers(self) -> int:
        return sum(map(len, self._readers.values()))

    def hear(self, message: bytes) -> None:
        """One engine step's rows: [[job id, seq, row], ...]."""
        for job_id, seq, fields in orjson.loads(message):
            if readers := self._readers.get(job_id):
                row = LogEntry(seq, decode_event(fields))
                for reader in readers:
                    reader.push(row)

    def sweep(self) -> None:
        """Tell every reader its job's state, position and log length."""
        waiting = list(self._readers)
        for start in range(0, len(waiting), SWEEP_JOBS):
            self._tell(waiting[start : start + SWEEP_JOBS])
        for queue in set(self.store.directory.models().values()):
            self.store.expire(queue)
        for task in self._periodic_tasks:
            task()
        self.seconds_per_place = self.store.directory.seconds_per_place(self.queue)

    def _tell(self, job_ids: Sequence[str]) -> None:
        for job_id, look in zip(job_ids, self.store.poll(job_ids), strict=True):
            for reader in self._readers.get(job_id, ()):
                reader.tell(look)

    def _wake_all(self) -> None:
        """Also while Redis is away: whoever has been silent for long sends a keep-alive."""
        for readers in self._readers.values():
            for reader in readers:
                reader.wake.set()

    def _listen(self) -> None:
        has_subscribed = True  # a Redis that is away is told of once
        while True:
            try:
                with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(keys.CHANNEL)
                    has_subscribed = True
                    self._hear_all(pubsub)
            except (RedisError, OSError) as error:
                if has_subscribed:
                    logger.warning("the subscription to Redis broke (%s); subscribing again", error)
                has_subscribed = False
                gevent.sleep(0.2)
            except Exception:
                logger.exception("the subscription to Redis failed in a way that is our fault; subscribing again")
                gevent.sleep(1.0)

    def _hear_all(self, pubsub: Any) -> None:
        """Raises RedisError when the connection breaks, or is silent though it was asked: then it is half-open."""
        is_asked = False
        while True:
            message: dict[str, Any] | None = pubsub.get_message(timeout=SILENCE_S)
            if message is None:
                if is_asked:
                    raise RedisConnectionError("no answer")
                pubsub.ping()
                is_asked = True
                continue
            is_asked = False
            if message["type"] == "message":
                self.hear(message["data"])

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
                logger.exception("a look at Redis failed in a way that is our fault")
            self._wake_all()
            gevent.sleep(SWEEP_S)
