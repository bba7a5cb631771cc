"""Writes results of lines to SQL, with the counts of their batches: several in one transaction, none late."""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from common.records.batch_work import LineResult, record, recorded_numbers, still_open
from common.records.database import Records, StoreError
from dispatcher.batches.feeds import Feed
from dispatcher.batches.usage import counts_of
from dispatcher.lease import Lease

logger = logging.getLogger("omni.dispatcher")

MOST_WAITING = 1000  # results; then the threads that bring more wait
MOST_TOGETHER = 250
GATHER_S = 0.25
AGAIN_S = 0.5

Answered = tuple[Feed, LineResult]


class Recorder:
    """add() is called by the threads that wait for answers, run() is one thread of its own."""

    def __init__(
        self, records: Records, lease: Lease, on_recorded: Callable[[Feed, Sequence[LineResult]], None]
    ) -> None:
        self._records = records
        self._lease = lease
        self._on_recorded = on_recorded
        self._waiting: queue.Queue[Answered] = queue.Queue(MOST_WAITING)

    def add(self, feed: Feed, result: LineResult) -> None:
        self._waiting.put((feed, result))

    def run(self, stopping: threading.Event) -> None:
        """Write until `stopping`, then what has come until then. Raises LeaseLost."""
        while not (stopping.is_set() and self._waiting.empty()):
            if answered := self._gather(stopping):
                self._write(answered, stopping)

    def _gather(self, stopping: threading.Event) -> list[Answered]:
        """The results of the next GATHER_S; fewer when they are many, or when the end is near."""
        found: list[Answered] = []
        until = time.monotonic() + GATHER_S
        while len(found) < MOST_TOGETHER and (left := until - time.monotonic()) > 0:
            try:
                found.append(self._waiting.get(timeout=0.01 if stopping.is_set() else left))
            except queue.Empty:
                break
        return found

    def _write(self, answered: Sequence[Answered], stopping: threading.Event) -> None:
        """Until the database takes it."""
        by_batch: dict[Feed, list[LineResult]] = defaultdict(list)
        for feed, result in answered:
            by_batch[feed].append(result)
        is_waiting = False
        while True:
            try:
                self._commit(by_batch)
                break
            except StoreError as error:
                if not is_waiting:
                    logger.warning("results of batches cannot be written now: %s", type(error).__name__)
                is_waiting = True
                if stopping.wait(AGAIN_S):
                    return  # these lines are sent again by the next dispatcher, and find their jobs
        for feed, results in by_batch.items():
            self._on_recorded(feed, results)

    def _commit(self, by_batch: dict[Feed, list[LineResult]]) -> None:
        with self._records.begin() as connection:
            self._lease.check(connection)
            taking = still_open(connection, [feed.batch.id for feed in by_batch])
            for feed, results in by_batch.items():
                if feed.batch.id not in taking:
                    continue
                # a transaction whose answer was lost may have been committed
                known = recorded_numbers(connection, feed.batch.id, [result.number for result in results])
                new = [result for result in results if result.number not in known]
                if new:
                    record(connection, feed.batch.id, new, counts_of(new))
