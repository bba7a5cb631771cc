"""The batch loop: looks after each open batch, while other threads send lines and record answers."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from common.files.storage import FileStorage
from common.records import batch_work
from common.records.batch_work import LineResult, OpenBatch
from common.records.database import Records, StoreError
from common.redis.dispatch.wake import wake_ups
from common.settings import Settings
from dispatcher.batches.client import AWAY_S, ApiAway, InternalSecret, LineClient
from dispatcher.batches.feeds import FairFeeds, Feed
from dispatcher.batches.finishing import Finisher
from dispatcher.batches.jobs import LineJobs
from dispatcher.batches.lines import Line, LineFault, check, ids_of, lines_in, paged_lines, requests_of
from dispatcher.batches.pace import Paces
from dispatcher.batches.recorder import Recorder
from dispatcher.batches.results import NOT_RUN
from dispatcher.batches.window import FIRST, MOST, load_of, next_size
from dispatcher.lease import Lease

logger = logging.getLogger("omni.dispatcher")

LOOK_S = 0.5
CONFLICT = 409
PATIENCE_S = 30.0  # for the answers to lines in flight, once their jobs are cancelled
PASSING = (StoreError, RedisError, OSError)  # a wait may cure them
NO_FILE = LineFault("file_not_found", "The input file does not exist any more.")


class BatchTask:
    """A task of the dispatcher."""

    name = "batches"

    def __init__(
        self, settings: Settings, redis: "Redis", records: Records, storage: FileStorage, lease: Lease
    ) -> None:
        self._max_queue = settings.limits.max_queue
        self._redis = redis
        self._records = records
        self._storage = storage
        self._lease = lease
        self._feeds = FairFeeds()
        self._client = LineClient(settings.api_url, InternalSecret(redis), MOST)
        self._recorder = Recorder(records, lease, self._recorded)
        self._finisher = Finisher(records, lease, storage)
        self._jobs = LineJobs(redis)
        self._paces = Paces()
        self._size = 0
        self._senders: list[threading.Thread] = []
        self._wake = threading.Event()
        self._is_away = False  # Redis or the store, which is logged once
        self._failure: BaseException | None = None

    def run(self, stopping: threading.Event) -> None:
        """Raises LeaseLost, or what a thread failed of."""
        self._widen(FIRST)
        recorder = self._start("recorder", lambda: self._recorder.run(stopping))
        self._start("pokes", lambda: self._listen(stopping))
        while not stopping.is_set() and self._failure is None:
            self._wake.clear()
            self._look()
            self._wake.wait(LOOK_S)
        self._feeds.stop()
        if self._failure is not None:
            raise self._failure
        recorder.join()

    def _start(self, name: str, function: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                self._failure = error
                self._wake.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _listen(self, stopping: threading.Event) -> None:
        """Look at once when the API says that there is something new."""
        while not stopping.is_set():
            try:
                with wake_ups(self._redis) as channel:
                    while not stopping.is_set():
                        if channel.get_message(timeout=LOOK_S):
                            self._wake.set()
            except RedisError:
                stopping.wait(LOOK_S)

    def _look(self) -> None:
        """One round over the open batches. What cannot be done now is done in a later round."""
        try:
            with self._records.read() as connection:
                open_batches = batch_work.open_batches(connection)
            self._note_paces()
            self._feeds.freed(self._jobs.forget())
            load = load_of(self._redis)
            self._widen(next_size(self._size, self._feeds.num_in_flight(), load, self._max_queue))
            self._is_away = False
        except PASSING as error:
            if not self._is_away:
                logger.warning("batches wait: %s", type(error).__name__)
            self._is_away = True
            return
        for feed in self._feeds.feeds():
            if feed.batch.id not in {batch.id for batch in open_batches}:  # deleted with its owner
                self._remove(feed.batch.id)
        for batch in open_batches:
            try:
                self._attend(batch)
            except PASSING as error:
                logger.warning("%s waits: %s", batch.id, error)

    def _attend(self, batch: OpenBatch) -> None:
        """Bring one batch as far as it can be brought now."""
        try:
            self._advance(batch, self._feeds.feed(batch.id))
        except FileNotFoundError:
            self._fail(batch, [NO_FILE])

    def _advance(self, batch: OpenBatch, feed: Feed | None) -> None:
        if batch.status == "validating":
            self._validate(batch)
        elif batch.status == "finalizing":
            self._finish(batch)
        elif batch.status == "cancelling" or time.time() >= batch.expires:
            self._close(batch, feed, NOT_RUN["cancelled" if batch.status == "cancelling" else "expired"][1])
        elif feed is None:
            self._open(batch)
        elif feed.is_done:
            self._finish(batch)

    def _validate(self, batch: OpenBatch) -> None:
        with self._storage.open(batch.input_file_id) as file:
            checked = check(lines_in(file), batch.endpoint)
        if checked.faults:
            return self._fail(batch, checked.faults)
        with self._records.begin() as connection:
            self._lease.check(connection)
            batch_work.begin(connection, batch.id, checked.num_lines, checked.model)
        self._wake.set()

    def _fail(self, batch: OpenBatch, faults: Sequence[LineFault]) -> None:
        with self._records.begin() as connection:
            self._lease.check(connection)
            batch_work.fail(connection, batch, [fault.entry() for fault in faults])
        self._remove(batch.id)
        logger.info("%s failed: %s", batch.id, faults[0].code)

    def _open(self, batch: OpenBatch) -> None:
        """Send its lines from now on, without those that have been recorded."""
        with self._records.read() as connection:
            done = batch_work.recorded_numbers(connection, batch.id)
        raw_lines = paged_lines(lambda: self._storage.open(batch.input_file_id))
        lines = (line for line in requests_of(raw_lines, batch.endpoint) if line.number not in done)
        self._feeds.add(Feed(batch, lines, len(done)))

    def _close(self, batch: OpenBatch, feed: Feed | None, message: str) -> None:
        """End the jobs of its lines; then the batch."""
        if feed is None:  # an earlier process may have left jobs
            self._jobs.cancel(batch, self._numbers_left(batch), message)
            return self._finish(batch)
        self._jobs.cancel(batch, self._feeds.close(feed), message)
        if feed.is_idle or time.monotonic() > feed.closed_at + PATIENCE_S:
            self._finish(batch)

    def _numbers_left(self, batch: OpenBatch) -> list[int]:
        if batch.in_progress is None:
            return []
        with self._records.read() as connection:
            done = batch_work.recorded_numbers(connection, batch.id)
        with self._storage.open(batch.input_file_id) as file:
            return [number for number, _ in ids_of(file, batch.endpoint) if number not in done]

    def _finish(self, batch: OpenBatch) -> None:
        self._finisher.finish(batch)
        self._remove(batch.id)

    def _remove(self, batch_id: str) -> None:
        self._feeds.remove(batch_id)
        self._paces.remove(batch_id)

    def _widen(self, size: int) -> None:
        self._size = size
        while len(self._senders) < size:
            self._senders.append(self._start("lines", self._send_lines))
        self._feeds.allow(size)

    def _send_lines(self) -> None:
        while (taken := self._feeds.take()) is not None:
            self._send(*taken)

    def _send(self, feed: Feed, line: Line) -> None:
        try:
            reply = self._client.post(feed.batch, line)
        except ApiAway as away:
            return self._feeds.lost(feed, line, away.pause_s)
        except RedisError:
            return self._feeds.lost(feed, line, AWAY_S)
        if not reply.is_final:
            if reply.is_limit and not feed.has_met_limit:
                logger.info("%s is slowed down: %s", feed.batch.id, reply.message)
            return self._feeds.refused(feed, line, reply.retry_after_s, reply.message, is_limit=reply.is_limit)
        if feed.is_closed and reply.status_code == CONFLICT:  # we have cancelled its job
            return self._feeds.drop(feed, line)
        self._feeds.answered(feed, line)
        number, status = line.number, reply.status_code
        result = LineResult(number, line.custom_id, status, reply.request_id, reply.body, reply.job_id)
        self._recorder.add(feed, result)

    def _recorded(self, feed: Feed, results: Sequence[LineResult]) -> None:
        """Called by the recorder's thread."""
        self._feeds.recorded(feed, [result.number for result in results])
        if feed.is_done:
            self._wake.set()
        try:
            self._jobs.recorded(feed.batch, [result.job_id for result in results])
        except RedisError:
            pass  # they expire by themselves

    def _note_paces(self) -> None:
        if paces := self._paces.due(self._feeds.feeds()):
            with self._records.begin() as connection:
                self._lease.check(connection)
                for pace in paces:
                    waits_for = "" if pace.has_moved else self._feeds.waits_for(pace.batch_id)
                    batch_work.note_pace(connection, pace.batch_id, pace.lines_per_s, pace.eta, waits_for)
