"""Subscription: what one waiting request receives about its job from the hub."""

import time
from collections import deque

from gevent.event import Event as Wake

from api.jobs.waiting.notices import WaitNews
from common.redis.job_log import LogEntry
from common.redis.served.shelf import ShelfEntry
from common.redis.store import JobStatus

MAX_LIVE_ENTRIES = 64


class Subscription:
    """Live log entries and the job's newest status. Bounded: the log can always be read again."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.wake = Wake()
        self.status = JobStatus("queued", 0, -1)
        self.entry: ShelfEntry | None = None  # of the job's model, where its worker has several
        self.has_new_status = False
        self.wait_news = WaitNews()
        self.last_sent = time.monotonic()
        self.is_client_gone = False
        self.needs_probe = False  # send something, to learn whether the client still reads
        self.waits_for_end = False  # its client has received nothing yet: close it last
        self.is_closing = False
        self._entries: deque[LogEntry] = deque()

    def push(self, entry: LogEntry) -> None:
        if len(self._entries) >= MAX_LIVE_ENTRIES:
            self._entries.clear()  # the reader is slow: it will find the gap and read the log
        self._entries.append(entry)
        self.wake.set()

    def take(self) -> list[LogEntry]:
        entries = list(self._entries)
        self._entries.clear()
        return entries

    def update(self, status: JobStatus, entry: ShelfEntry | None = None) -> None:
        self.status, self.entry = status, entry
        self.has_new_status = True
        self.wake.set()

    def probe(self) -> None:
        self.needs_probe = True
        self.wake.set()

    def client_gone(self) -> None:
        self.is_client_gone = True
        self.wake.set()

    def close(self) -> None:
        self.is_closing = True
        self.wake.set()
