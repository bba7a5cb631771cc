"""events(store, subscription, after) -> the log entries of a job, live and from the log, with notices in between."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import gevent
from redis.exceptions import RedisError

from api.jobs.subscription import Subscription
from api.jobs.waiting.notices import Told
from common.errors import NotFound, StreamRewound, Unavailable
from common.redis.connection import is_passing
from common.redis.job_log import LogEntry
from common.redis.store import Store
from common.wire import Failed, Finished

PAGE_ENTRIES = 64  # read from a log at once
LAG_S = 0.1  # grace period before a missing entry is read from the log
LOST = (
    "Redis has lost events of this job that this stream has already sent; read the answer from its beginning, by the "
    "job's id and without 'starting_after'."
)
KEEP_ALIVE_S = 15.0  # send a keep-alive after this long without an event


@dataclass(frozen=True, slots=True)
class Closing:
    """This process is stopping: the client can resume at any other one."""


Notice = Told | Closing


class Log(Protocol):
    """The logs of jobs: in Redis, or those of one archived answer."""

    def entries(self, job_id: str, after: int = 0, count: int = 512) -> list[LogEntry]:
        """Up to `count` entries with seq > `after`. May raise RedisError."""
        ...


class ClientGone(Exception):
    """The client closed the connection."""


def events(
    store: Store, subscription: Subscription, after: int, *, is_new: bool, log: Log | None = None
) -> Iterator[LogEntry | Notice]:
    """Every log entry with seq > `after`, once and in order, up to and including the last; notices in between.

    `is_new`: the subscription is older than the job, so that no entry can be missed; otherwise the log is read first.
    `log`: that of an archived answer.
    Waits while Redis is away. Raises ClientGone, StreamRewound when the log was rewound, and for an unknown job
    NotFound, or Unavailable while nothing was sent: the client can ask again.
    """
    seq, must_read = after, not is_new
    while True:
        entries = _from_log(log or store.log, subscription.job_id, seq) if must_read else subscription.take()
        must_read = must_read and bool(entries)
        for entry in entries:
            if entry.seq <= seq:
                continue
            if entry.seq > seq + 1:
                must_read = True
                break
            seq = entry.seq
            yield entry
            if isinstance(entry.event, (Finished, Failed)):
                return
        if entries:
            subscription.last_sent = time.monotonic()
            if not subscription.is_closing:  # entries may arrive faster than they are taken
                continue
        if subscription.is_client_gone:
            raise ClientGone
        if subscription.is_closing:
            yield Closing()
            return
        must_read, notices = _wait(store, subscription, seq)
        yield from notices


def logged(log: Log, job_id: str) -> Iterator[LogEntry]:
    """The entries that the job's log holds now. Raises RedisError."""
    seq = 0
    while entries := log.entries(job_id, after=seq, count=PAGE_ENTRIES):
        yield from entries
        seq = entries[-1].seq
        gevent.sleep(0)  # as in _from_log


def _wait(store: Store, subscription: Subscription, seq: int) -> tuple[bool, Sequence[Notice]]:
    """Sleep until something happens. Returns whether the log must be read, and notices for the client."""
    is_behind = subscription.status.num_entries > seq  # the missing entries may be on their way, or lost
    # Without a timer the sweep wakes it up every second; a timer per entry would cost too much.
    is_awake = subscription.wake.wait(LAG_S if is_behind else None)
    subscription.wake.clear()
    if is_behind and not is_awake:
        return True, ()
    status = subscription.status
    if subscription.has_new_status:
        subscription.has_new_status = False
        if status.state == "" or status.num_entries < seq:
            _check(store, subscription, seq)
    if news := subscription.wait_news.of(status, subscription.entry):
        subscription.last_sent = time.monotonic()
        return False, news
    if time.monotonic() - subscription.last_sent < KEEP_ALIVE_S and not subscription.needs_probe:
        return False, ()
    subscription.needs_probe = False
    subscription.last_sent = time.monotonic()
    return False, subscription.wait_news.again()


def _check(store: Store, subscription: Subscription, seq: int) -> None:
    """Poll again before judging: the sweep's status may be older than the job or than the newest live entries."""
    try:
        [status] = store.poll([subscription.job_id])
    except RedisError as error:
        if not is_passing(error):
            raise
        return
    if status.state == "" and subscription.waits_for_end:
        raise Unavailable("This job was lost with the data of Redis before it was finished; send the request again.")
    if status.state == "":
        raise NotFound("This job does not exist any more; results are kept for a limited time.")
    if status.num_entries < seq:
        raise StreamRewound(LOST)


def _from_log(log: Log, job_id: str, seq: int) -> list[LogEntry]:
    gevent.sleep(0)  # let other requests run between two pages of a long log
    try:
        return log.entries(job_id, after=seq, count=PAGE_ENTRIES)
    except RedisError as error:
        if not is_passing(error):
            raise
        return []
