"""OmniWorker: an RQ worker that admits jobs in order into one engine and runs many of them at once.

RQ is known only here, in api/jobs/generation.py and in the dashboard. The records of jobs are written by the scripts of
common/redis/scripts, in the same step as our own state, so that RQ's registries are always right; this class
registers the worker itself.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from common.errors import ModelChanged, OmniError
from common.redis.connection import is_passing
from common.tracing import Traces
from common.wire import Event, Failed, Finished, ModelCard
from worker.engine.interface import AnyEngine
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Inbox
from worker.jobs.ledger import Claim, Ledger
from worker.jobs.publisher import Publisher
from worker.jobs.room import Held, make_room
from worker.jobs.telemetry import JobRate, Telemetry

logger = logging.getLogger("omni.worker")

IDLE_S = 1.0  # between checks of the queue without a wake-up
CONTESTED_S = 0.02  # between checks of a full worker while several owners have jobs
RETRY_S = 0.1


class OmniWorker(SimpleWorker):  # type: ignore[misc]
    """The loop: end cancelled jobs, admit the head of the queue, step, publish."""

    def __init__(
        self,
        ledger: Ledger,
        engine: AnyEngine,
        card: ModelCard,
        publisher: Publisher,
        inbox: Inbox,
        watch_fd: int,
        traces: Traces | None = None,
    ) -> None:
        super().__init__(
            [ledger.queue],
            name=ledger.worker_name,
            connection=ledger.redis,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.ledger = ledger
        self.engine = engine
        self.card = card
        self.publisher = publisher
        self.inbox = inbox
        self.hang_watch = HangWatch(watch_fd, self.stop)
        self.telemetry = Telemetry(ledger.redis, ledger.queue, str(engine.device), traces)
        self.is_stopping = False
        self.started = time.time()
        self._rate = JobRate()
        self._may_claim = True
        self._held: dict[str, Held] = {}  # the latest claimed last
        self._check_room_at = 0.0  # time of the next make_room()
        self._check_head_at = 0.0  # time of the next check of a head that did not fit

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run until stop(); leave() comes next. Raises Fenced when another process has taken our jobs over."""
        patiently(self.register_birth)
        while not self.is_stopping:
            self.cancel_requested()
            patiently(self.admit)
            patiently(self.make_room)
            if self.engine.has_work:
                self.step()
            else:
                self.rest()
        self.publisher.confirm()  # while the lease is still renewed
        return True

    def stop(self, *_: object) -> None:
        """SIGTERM: the loop ends after the current step; unfinished jobs go back into the queue."""
        self.is_stopping = True
        self.inbox.wake.set()

    def admit(self) -> None:
        """Claim the head of the queue while the engine has room."""
        if self.inbox.wake.is_set():
            self.inbox.wake.clear()
            self._may_claim = True
            self._check_room_at = self._check_head_at = 0.0
        while self._may_claim and self.engine.has_room(1, 1) and self._head_fits():
            claim = self.ledger.claim(self.publisher.num_suspects)
            if claim is None:
                self._may_claim = False
                return
            self._begin(claim)

    def _head_fits(self) -> bool:
        """True if the first choice of the queue's head would start at once: make_room() cannot help a job that was
        claimed too early and waits in the engine.
        """
        if self.publisher.num_suspects or self.engine.has_ample_room():
            return True
        if time.monotonic() < self._check_head_at:
            return False
        waiter = self.ledger.waiter()
        if waiter is None:
            return True
        head = waiter.head
        fits = self.engine.has_room(head.num_prompt_tokens, 1, head.max_tokens)
        self._check_head_at = 0.0 if fits else time.monotonic() + (CONTESTED_S if waiter.num_owners > 1 else IDLE_S)
        return fits

    def make_room(self) -> None:
        """While all places are taken: give an owner with less than its share a place of another owner.

        The job that gives way is enqueued again and continues later from its log.
        """
        now = time.monotonic()
        if now < self._check_room_at:
            return
        self._check_room_at = now + IDLE_S  # or when the queue moves
        if self.publisher.num_suspects or self.engine.has_ample_room():
            return
        while (waiter := self.ledger.waiter()) is not None:
            if waiter.num_owners > 1:
                self._check_room_at = time.monotonic() + CONTESTED_S
            head = waiter.head
            fits = partial(self.engine.has_room, head.num_prompt_tokens, head.places, head.max_tokens)
            given = make_room(head, waiter.shares, list(self._held.values()), fits)
            if not given:
                return
            self.publish([])  # every event of these jobs is in the log
            claim = self.ledger.claim(0, head.id, given)
            if claim is None:
                return
            if claim.request.id == head.id:  # otherwise a repeated claim, for which no job gave way
                for job_id in given:
                    self._drop(job_id)
            self._begin(claim)

    def step(self) -> None:
        """One engine step. Its events are sent now and confirmed after the next step, while Redis works."""
        events = self.hang_watch.run(self.engine.step)
        self.telemetry.observe(events)
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
                self._count(event)

    def rest(self) -> None:
        """Without work: confirm the last step, then wait for a wake-up."""
        self.publish([])
        if not (self.inbox.wake.wait(IDLE_S) or self.engine.has_work):
            self._may_claim = True

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

    def leave(self) -> None:
        """Give all jobs back without blame; their logs hold every event."""
        self.publisher.confirm()
        given_back = self.ledger.release()
        if given_back:
            logger.info("unfinished jobs returned to the queue: %d; the next worker continues them", given_back)
        self.register_death()

    def report(self) -> Mapping[str, Any]:
        """The worker's own record in Redis, sent with every heartbeat."""
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if self.engine.has_work else WorkerStatus.IDLE)
        stats = self.engine.stats().as_dict()
        return {
            "state": "draining" if self.is_stopping else self.engine.state,
            "model": self.card.root,
            "started": self.started,
            "jobs_per_s": self._rate.per_s(),
            **{name: str(value) for name, value in stats.items()},
            **self.telemetry.report(stats),
        }

    def _begin(self, claim: Claim) -> None:
        request = claim.request
        if self.publisher.has(request.id):  # it was given back without our knowledge
            self._drop(request.id)
        self._held[request.id] = Held(request.id, claim.owner, claim.priority, request.sampling.n, claim.num_made_room)
        self.publisher.open(request.id, claim.num_entries, claim.is_suspect)
        try:
            if claim.revision != self.card.revision:
                raise ModelChanged("The model was changed while this request waited; send it again.")
            self.hang_watch.run(partial(self.engine.add, request, claim.logged, is_suspect=claim.is_suspect))
        except OmniError as error:
            self.publish([(request.id, Failed(error.code, error.message))])

    def _drop(self, job_id: str) -> None:
        self.engine.cancel(job_id)
        self._close(job_id)
        self.telemetry.forget(job_id)

    def _close(self, job_id: str) -> None:
        self.publisher.close(job_id)
        self._held.pop(job_id, None)
        self._check_head_at = 0.0

    def _count(self, event: Event) -> None:
        self._rate.count()
        self._may_claim = True
        if isinstance(event, Finished):
            self.successful_job_count += 1
        else:
            self.failed_job_count += 1


def patiently(ask: Callable[[], None]) -> None:
    """While Redis is away, try again in the next round: a loaded model is worth keeping."""
    try:
        ask()
    except RedisError as error:
        if not is_passing(error):
            raise
        logger.warning("Redis does not answer now (%s)", error)
        time.sleep(RETRY_S)
