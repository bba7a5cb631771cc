"""Which line is next: owners take turns, an owner's batches take turns, and who met a limit waits."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator

from common.records.batch_work import OpenBatch
from dispatcher.batches.lines import Line

logger = logging.getLogger("omni.dispatcher")

ALONE_S = 10.0  # the longest pause of a batch that has no other line in flight
MOST_BYTES = 64 * 2**20  # of lines in flight, beyond the first: their bodies are kept until they are answered
IN_QUEUE = (
    "Lines in the queue: {}. Batches run in the tier flex, so requests that somebody waits for go first, and a model "
    "that is not loaded is loaded first."
)
NO_API = "The dispatcher cannot reach the API. An operator finds out more with 'omni doctor'."
OTHERS_FIRST = "Other batches go first: as many lines are in the queue as it takes from batches."
RAISE = 0.1  # of a batch's bound, for each line that ended: it finds out again how much its key may have


class Feed:
    """The lines of one batch that have no answer yet. FairFeeds guards it by its lock."""

    def __init__(self, batch: OpenBatch, lines: Iterator[Line], num_done: int) -> None:
        self.batch = batch
        self.num_done = num_done  # recorded in SQL
        self.sent: set[int] = set()  # lines that may have a job and are not recorded
        self.num_in_flight = 0
        self.num_unrecorded = 0  # answered, and not in SQL yet
        self.is_closed = False  # cancelled or expired: no line is given out
        self.closed_at = 0.0  # monotonic
        self.paused_until = 0.0  # monotonic
        self.refusal = ""  # of the last line that is to be sent again
        self.has_met_limit = False
        self.bound = float("inf")  # of lines in flight, while a limit of its key is felt
        self.last_turn = 0
        self.is_reading = False  # a thread reads its next line, outside the lock
        self._lines = lines
        self._again: deque[Line] = deque()
        self._next = next(lines, None)

    @property
    def is_idle(self) -> bool:
        """Nothing of it is under way."""
        return not (self.num_in_flight or self.num_unrecorded)

    @property
    def is_done(self) -> bool:
        return self.is_idle and not (self.has_line or self.is_reading)

    @property
    def has_line(self) -> bool:
        return bool(self._again) or self._next is not None

    def may_send(self, now: float) -> bool:
        if self.is_closed or now < self.paused_until or not self.has_line:
            return False
        return self.num_in_flight + 1 <= self.bound

    def pop(self) -> tuple[Line, bool]:
        """A line, and whether the caller is to read the next one."""
        if self._again:
            return self._again.popleft(), False
        assert self._next is not None
        line, self._next = self._next, None
        self.sent.add(line.number)
        self.is_reading = True
        return line, True

    def read(self) -> Line | None:
        """The line after those that were taken. The file may be slow: no lock is held. Raises OSError."""
        return next(self._lines, None)

    def end_reading(self, line: Line | None) -> None:
        self._next, self.is_reading = line, False

    def put_back(self, line: Line) -> None:
        self._again.append(line)


class FairFeeds:
    """Gives lines to threads. Every method may be called by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._feeds: dict[str, Feed] = {}
        self._most = 1
        self._in_flight = 0
        self._num_bytes = 0  # of the lines in flight
        self._turn = 0
        self._paused_until = 0.0
        self._is_stopped = False

    def add(self, feed: Feed) -> None:
        with self._changed:
            self._feeds[feed.batch.id] = feed
            self._changed.notify_all()

    def remove(self, batch_id: str) -> None:
        with self._changed:
            self._feeds.pop(batch_id, None)

    def feed(self, batch_id: str) -> Feed | None:
        return self._feeds.get(batch_id)

    def feeds(self) -> list[Feed]:
        with self._changed:
            return list(self._feeds.values())

    def close(self, feed: Feed) -> list[int]:
        """Give out no more of its lines; returns those that may have a job."""
        with self._changed:
            if not feed.is_closed:
                feed.is_closed, feed.closed_at = True, self._clock()
            return sorted(feed.sent)

    def allow(self, most: int) -> None:
        """The number of lines that may be in flight."""
        with self._changed:
            self._most = most
            self._changed.notify_all()

    def num_in_flight(self) -> int:
        return self._in_flight

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def take(self) -> tuple[Feed, Line] | None:
        """Wait for the next line to send; None after stop()."""
        with self._changed:
            while (feed := self._due(now := self._clock())) is None or self._is_stopped:
                if self._is_stopped:
                    return None
                self._changed.wait(self._next_due(now))
            line, is_to_read = feed.pop()
            feed.num_in_flight += 1
            self._in_flight += 1
            self._num_bytes += len(line.body)
            self._turn += 1
            feed.last_turn = self._turn
            self._changed.notify()  # there may be another line for another thread
        if is_to_read:
            self._read_next(feed)
        return feed, line

    def _read_next(self, feed: Feed) -> None:
        line = None
        try:
            line = feed.read()
        except OSError as error:  # the loop opens its file again
            logger.warning("%s cannot be read now: %s", feed.batch.input_file_id, error)
            with self._changed:
                if self._feeds.get(feed.batch.id) is feed:
                    del self._feeds[feed.batch.id]
        with self._changed:
            feed.end_reading(line)
            self._changed.notify()

    def answered(self, feed: Feed, line: Line) -> None:
        """A line has its answer, which is not recorded yet: its place is free."""
        with self._changed:
            feed.num_unrecorded += 1
            feed.bound += RAISE
            self._leave(feed, line)

    def recorded(self, feed: Feed, numbers: Collection[int]) -> None:
        with self._changed:
            feed.num_unrecorded -= len(numbers)
            feed.num_done += len(numbers)
            feed.sent.difference_update(numbers)

    def drop(self, feed: Feed, line: Line) -> None:
        """A line ended without an answer that counts."""
        with self._changed:
            self._leave(feed, line)

    def refused(self, feed: Feed, line: Line, pause_s: float, why: str, *, is_limit: bool) -> None:
        """Send the line again: its batch waits, and has fewer lines in flight after a limit."""
        with self._changed:
            feed.put_back(line)
            feed.refusal = why
            if feed.num_in_flight == 1:  # nothing of it will end, which could show that the limit has passed
                pause_s = min(pause_s, ALONE_S)
            feed.paused_until = max(feed.paused_until, self._clock() + pause_s)
            if is_limit:
                feed.has_met_limit = True
                feed.bound = max(1.0, feed.num_in_flight - 1)
            self._leave(feed, line)

    def freed(self, owners: Collection[str]) -> None:
        """What these owners' limits count has become less: a pause that was to end with the hour may end now."""
        with self._changed:
            for feed in self._feeds.values():
                if feed.batch.owner in owners:
                    feed.paused_until = self._clock()
            self._changed.notify_all()

    def waits_for(self, batch_id: str) -> str:
        """Why none of its lines has ended lately, as its owner reads it; "" when it has no line left to send."""
        with self._changed:
            feed, now = self._feeds.get(batch_id), self._clock()
            if feed is None or feed.is_closed:
                return ""
            if now < feed.paused_until:
                return feed.refusal
            if feed.num_in_flight:
                return IN_QUEUE.format(feed.num_in_flight)
            if not feed.has_line:
                return ""
            return NO_API if now < self._paused_until else OTHERS_FIRST

    def lost(self, feed: Feed, line: Line, pause_s: float) -> None:
        """Send the line again: for so long all batches wait, because the API cannot be reached."""
        with self._changed:
            feed.put_back(line)
            self._paused_until = max(self._paused_until, self._clock() + pause_s)
            self._leave(feed, line)

    def _leave(self, feed: Feed, line: Line) -> None:
        feed.num_in_flight -= 1
        self._in_flight -= 1
        self._num_bytes -= len(line.body)
        self._changed.notify()

    def _due(self, now: float) -> Feed | None:
        """Of the owner with the fewest lines in flight, the batch that has waited longest for its turn."""
        if self._in_flight >= self._most or self._num_bytes >= MOST_BYTES or now < self._paused_until:
            return None
        ready = [feed for feed in self._feeds.values() if feed.may_send(now)]
        held = Counter[str]()
        for feed in self._feeds.values():
            held[feed.batch.owner] += feed.num_in_flight
        return min(ready, key=lambda feed: (held[feed.batch.owner], feed.last_turn), default=None)

    def _next_due(self, now: float) -> float | None:
        """Seconds until a pause ends; None when only a change can bring a line."""
        ends = [self._paused_until, *(feed.paused_until for feed in self._feeds.values())]
        return min((end - now for end in ends if end > now), default=None)
