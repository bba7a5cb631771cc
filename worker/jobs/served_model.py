"""ServedModel: what one queue needs of a worker, which may serve several: its fence, its jobs, its engine."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Any

from redis.exceptions import RedisError

from common.errors import OmniError
from common.flag import Flag
from common.redis.connection import is_passing
from common.redis.served.adapters import AdapterStore
from common.tracing import Traces
from common.wire import Event, Failed, Finished
from worker.engine.interface import AnyEngine, NotLoaded
from worker.jobs.adapters import ServedAdapters
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Inbox
from worker.jobs.ledger import Claim, Ledger
from worker.jobs.publisher import Publisher
from worker.jobs.queue_head import FLEX, IDLE_S, QueueHead
from worker.jobs.room import Held
from worker.jobs.telemetry import JobRate, Telemetry
from worker.shelf.opening import compute_with

logger = logging.getLogger("omni.worker")

RETRY_S = 0.1


class ServedModel:
    """Admits the jobs of one queue in order into one engine and logs what it generates."""

    def __init__(
        self,
        ledger: Ledger,
        engine: AnyEngine,
        publisher: Publisher,
        wake: Flag,
        hang_watch: HangWatch,
        traces: Traces | None = None,
        given_adapters: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.ledger = ledger
        self.engine = engine
        self.publisher = publisher
        self.inbox = Inbox(wake, lambda: self.engine.interrupt())
        self.adapters = ServedAdapters(AdapterStore(ledger.redis), ledger.queue, engine, self.inbox)
        self.given_adapters = given_adapters  # that its engine is loaded with: name -> folder
        self.hang_watch = hang_watch
        self.telemetry = Telemetry(ledger.redis, ledger.queue, str(engine.device), traces)
        self.is_stopping = False
        self.is_admitting = True  # False while the engine is to leave
        self.load_times: Mapping[str, int] = {}  # for forecasts, until the model is loaded
        self.fault = ""  # why the model cannot be loaded: its jobs fail
        self.keep_alives: deque[float | None] = deque(maxlen=1)  # of the latest request
        self.paused: set[str] = set()  # jobs that were given back, until they go on
        self.started = time.time()
        self._num_threads: int | None = None  # of the engine's products; None: as the process has
        self._lock = Lock()  # held while another thread asks the engine, and while the engine changes
        self._rate = JobRate()
        self._may_claim = True
        self._looked = 0.0  # when the queue was last found empty
        self.held: dict[str, Held] = {}  # the latest claimed last
        self._head = QueueHead(ledger, engine)

    @property
    def queue(self) -> str:
        return self.ledger.queue

    @property
    def is_loaded(self) -> bool:
        return not isinstance(self.engine, NotLoaded)

    def attach(self, engine: AnyEngine, num_threads: int | None) -> None:
        """The model is loaded: its jobs may run."""
        with self._lock:
            self.telemetry.count(self.engine.stats().as_dict())
            self.engine, self._num_threads = engine, num_threads
        self.telemetry.device = str(engine.device)
        self.adapters.attach(engine)
        self._head = QueueHead(self.ledger, engine)
        self.is_admitting = self._may_claim = True
        self.fault = ""

    def detach(self) -> None:
        """Let go of the engine, which has no requests any more."""
        self.publish([])
        self.attach(NotLoaded(self.engine.card), None)

    def give_back(self, job_ids: Sequence[str]) -> None:
        """Put jobs back at the head of the queue, without blame; they go on from their logs. May be repeated."""
        if job_ids:
            self.publish([])  # every event of these jobs is in the log
        for job_id in reversed(job_ids):  # each goes before the last
            self.ledger.give_back(job_id)
            self._drop(job_id)
            self.paused.add(job_id)

    def admit(self) -> None:
        """Claim the head of the queue while the engine has room."""
        if not self.is_admitting:
            return
        if self.inbox.take_moved():
            self._may_claim = True
            self._head.queue_moved()
        elif not self.engine.has_work and time.monotonic() - self._looked >= IDLE_S:
            self._may_claim = True  # a wake-up may be lost
        while self._may_claim and self.engine.has_room(1, 1):
            head = self._head.fitting(has_suspects=self.publisher.num_suspects > 0)
            if head is None:
                return
            claim = self.ledger.claim(self.publisher.num_suspects, head)
            if claim is None:
                self._may_claim = bool(head)  # another job is the head by now, or the queue is empty
                self._looked = time.monotonic()
                return
            self._begin(claim)

    def make_room(self) -> None:
        """While the head has no place: give it one of a later tier, or of an owner with more than its share.

        The job that gives way is enqueued again and continues later from its log.
        """
        while self.is_admitting and (wanted := self._wanted_room()) is not None:
            head, given = wanted
            self.publish([])  # every event of these jobs is in the log
            claim = self.ledger.claim(0, head, given)
            if claim is None:
                return
            if claim.request.id == head:  # otherwise a repeated claim, for which no job gave way
                for job_id in given:
                    self._drop(job_id)
            self._begin(claim)

    def _wanted_room(self) -> tuple[str, list[str]] | None:
        return self._head.making_room(self.held.values(), has_suspects=self.publisher.num_suspects > 0)

    def step(self) -> None:
        """One engine step. Its events are sent now and confirmed after the next step, while Redis works."""
        self._use_threads()
        events = self.hang_watch.run(self.engine.step, self.ledger.fence)
        self.publisher.charge(self.engine.take_gpu_us())
        self.telemetry.observe(events, self.engine.last_step_tokens)
        self.publish(events)

    def publish(self, events: list[tuple[str, Event]]) -> None:
        for job_id, reason in self.publisher.confirm().items():
            logger.warning("the log of %s accepts no more entries (%s); the job is dropped", job_id, reason)
            self._drop(job_id)
            if reason == "gap":
                patiently(partial(self.ledger.give_back, job_id))
        for job_id in self.publisher.send(events):
            self.engine.clear_suspicion(job_id)
            self._may_claim = True
        for job_id, event in events:
            if isinstance(event, (Finished, Failed)):
                self._close(job_id)
                self._count()

    def cancel_requested(self) -> None:
        """End jobs that were cancelled, are past their deadline or have no reader."""
        ended: list[tuple[str, Event]] = []
        for job_id, reason in dict(self.inbox.take_cancels()).items():
            if self.publisher.has(job_id):
                self.engine.cancel(job_id)
                self.telemetry.forget(job_id)
                ended.append((job_id, reason))
        if ended:
            self.publish(ended)

    def leave(self) -> int:
        """Give all jobs back without blame; their logs hold every event. Returns their number."""
        self.publisher.confirm()
        return self.ledger.release()

    def report(self) -> Mapping[str, Any]:
        """The record of this fence in Redis, sent with every heartbeat."""
        with self._lock:
            stats = self.engine.stats().as_dict()
            if not self.is_loaded:
                stats.pop("num_places")  # that of its last stay remains, for forecasts
        return {
            **self.load_times,
            "adapters": self.adapters.report(),
            "state": "draining" if self.is_stopping else self.engine.state,
            "model": self.engine.card.root,
            "started": self.started,
            "jobs_per_s": self._rate.per_s(),
            **{name: str(value) for name, value in stats.items()},
            **self.telemetry.report(stats),
        }

    def _use_threads(self) -> None:
        if self._num_threads is not None:
            compute_with(self._num_threads)

    def _begin(self, claim: Claim) -> None:
        request = claim.request
        if self.publisher.has(request.id):  # it was given back without our knowledge
            self._drop(request.id)
        if claim.tier != FLEX and not self.engine.paces_flex:
            flex = [job.id for job in self.held.values() if job.tier == FLEX]
            retried(partial(self.give_back, flex))
        self.held[request.id] = claim.held
        self.keep_alives.append(request.keep_alive_s)
        self.paused.discard(request.id)
        self.publisher.open(request.id, claim.num_entries, claim.is_suspect)
        self.telemetry.times.begin(claim)
        self._use_threads()
        try:
            self.adapters.check(claim)
            add = partial(self.engine.add, request, claim.logged, is_suspect=claim.is_suspect)
            self.hang_watch.run(add, self.ledger.fence)
        except OmniError as error:
            self.publish([(request.id, Failed(error.code, error.message))])

    def _drop(self, job_id: str) -> None:
        self.engine.cancel(job_id)
        self._close(job_id)
        self.telemetry.forget(job_id)

    def _close(self, job_id: str) -> None:
        self.publisher.close(job_id)
        self.held.pop(job_id, None)
        self._head.place_freed()

    def _count(self) -> None:
        self._rate.count()
        self._may_claim = True


def retried(ask: Callable[[], object]) -> None:
    """Repeat a call until Redis answers: a loaded model is worth keeping."""
    while True:
        try:
            ask()
            return
        except RedisError as error:
            if not is_passing(error):
                raise
            time.sleep(RETRY_S)


def patiently(ask: Callable[[], None]) -> None:
    """While Redis is away, try again in the next round: a loaded model is worth keeping."""
    try:
        ask()
    except RedisError as error:
        if not is_passing(error):
            raise
        logger.warning("Redis does not answer now (%s)", error)
        time.sleep(RETRY_S)
