"""OmniWorker: an RQ worker that admits jobs in order into one engine and runs many of them at once.

RQ is known only here and in api/jobs/generation.py. The records of jobs are written by the scripts of
common/redis/scripts, in the same step as our own state, so that RQ's registries are right at every moment; this class
registers the worker itself.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from common.errors import ModelChanged, OmniError
from common.redis.connection import is_passing
from common.tracing import Traces
from common.wire import Event, Failed, Finished, ModelCard
from worker.engine.interface import AnyEngine
from worker.jobs.heartbeat import Inbox
from worker.jobs.ledger import Claim, Ledger
from worker.jobs.publisher import Publisher
from worker.jobs.room import Held, make_room
from worker.jobs.telemetry import Telemetry

logger = logging.getLogger("omni.worker")

IDLE_S = 1.0  # how often an idle worker looks into the line without having been woken, and a full one who waits
CONTESTED_S = 0.02  # how often a full one does while several owners wait or run
RATE_WINDOW_S = 10.0
RETRY_S = 0.1
T = TypeVar("T")


class OmniWorker(SimpleWorker):  # type: ignore[misc]
    """The loop: cancel what is to be cancelled, admit the head of the line, step, publish."""

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
        self.watch_fd = watch_fd
        self.telemetry = Telemetry(ledger.redis, ledger.queue, str(engine.device), traces)
        self.is_stopping = False
        self.started = time.time()
        self._num_ended = 0
        self._rate_since = time.monotonic()
        self._jobs_per_s = 0.0
        self._line_may_have_moved = True
        self._held: dict[str, Held] = {}  # the latest claimed last
        self._look_at = 0.0  # when to see whether somebody waits for a place
        self._ask_at = 0.0  # when to ask again whether the head fits, after it did not

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run until stop(); leave() comes next. Raises Fenced when another process has taken our jobs over."""
        self._patiently(self.register_birth)
        while not self.is_stopping:
            self.cancel_requested()
            self._patiently(self.admit)
            self._patiently(self.make_room)
            if self.engine.has_work:
                self.step()
            else:
                self.rest()
        self.publisher.confirm()  # while the lease is still renewed
        return True

    def stop(self, *_: object) -> None:
        """SIGTERM: the loop ends after the step it is in; what is unfinished goes back into the line."""
        self.is_stopping = True
        self.inbox.wake.set()

    def _patiently(self, ask: Callable[[], None]) -> None:
        """What Redis does not take now is asked again in the next round: a loaded model is worth keeping."""
        try:
            ask()
        except RedisError as error:
            if not is_passing(error):
                raise
            logger.warning("Redis does not answer now (%s)", error)
            time.sleep(RETRY_S)

    def admit(self) -> None:
        """Claim from the head of the line while the engine has room."""
        if self.inbox.wake.is_set():
            self.inbox.wake.clear()
            self._line_may_have_moved = True
            self._look_at = self._ask_at = 0.0
        while self._line_may_have_moved and self.engine.has_room(1, 1) and self._head_fits():
            claim = self.ledger.claim(self.publisher.num_suspects)
            if claim is None:
                self._line_may_have_moved = False
                return
            self._begin(claim)

    def _head_fits(self) -> bool:
        """Whether the head of the line would start at once. One that is claimed and waits in the engine is out of
        make_room's reach: it would wait for the end of another's long answer.
        """
        if self.publisher.num_suspects or self.engine.has_ample_room():
            return True
        if time.monotonic() < self._ask_at:
            return False
        waiter = self.ledger.waiter()
        if waiter is None:
            return True
        head = waiter.head
        fits = self.engine.has_room(head.num_prompt_tokens, head.places, head.max_tokens)
        self._ask_at = 0.0 if fits else time.monotonic() + CONTESTED_S
        return fits

    def make_room(self) -> None:
        """While all places are taken: an owner that has less than its share gets one of another's.

        The job that gives way waits again, and goes on later from its log.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + IDLE_S  # or when the line moves
        if self.publisher.num_suspects or self.engine.has_ample_room():
            return
        while (waiter := self.ledger.waiter()) is not None:
            if waiter.num_owners > 1:
                self._look_at = time.monotonic() + CONTESTED_S
            head = waiter.head
            fits = partial(self.engine.has_room, head.num_prompt_tokens, head.places, head.max_tokens)
            given = make_room(head, waiter.shares, list(self._held.values()), fits)
            if not given:
                return
            self.publish([])  # all that was made of them is in the log
            claim = self.ledger.claim(0, head.id, given)
            if claim is None:
                return
            if claim.request.id == head.id:  # else it is one whose answer was lost, and nobody gave way for it
                for job_id in given:
                    self._drop(job_id)
            self._begin(claim)

    def step(self) -> None:
        """One engine step; its events are sent now and confirmed after the next step, while Redis works."""
        events = self._watched(self.engine.step)
        self.telemetry.heard(events)
        self.publish(events)

    def _watched(self, work: Callable[[], T]) -> T:
        """Do what a request may hang in; the parent counts the seconds."""
        self._tell_parent(b"begin\n")
        result = work()
        self._tell_parent(b"end\n")
        return result

    def _tell_parent(self, word: bytes) -> None:
        """A parent that is dead would start no successor: end as if it had asked us to."""
        try:
            os.write(self.watch_fd, word)
        except BrokenPipeError:
            self.stop()

    def publish(self, events: list[tuple[str, Event]]) -> None:
        for job_id, reason in self.publisher.confirm().items():
            logger.warning("the log of %s takes no more from us (%s); dropping it", job_id, reason)
            self._drop(job_id)
            if reason == "gap":
                self._patiently(partial(self.ledger.give_back, job_id))
        for job_id in self.publisher.send(events):
            self.engine.clear_suspicion(job_id)
            self._line_may_have_moved = True
        for job_id, event in events:
            if isinstance(event, (Finished, Failed)):
                self._close(job_id)
                self._count(event)

    def rest(self) -> None:
        """Nothing to do: make the last step certain, then wait to be woken."""
        self.publish([])
        if self.inbox.wake.wait(IDLE_S) or self.engine.has_work:
            return
        self._line_may_have_moved = True

    def cancel_requested(self) -> None:
        """End the jobs whose callers have left, whose deadline passed, or which were cancelled."""
        ended: list[tuple[str, Event]] = []
        for job_id, reason in dict(self.inbox.take_cancels()).items():
            if self.publisher.has(job_id):
                self.engine.cancel(job_id)
                self.telemetry.forget(job_id)
                ended.append((job_id, reason))
        if ended:
            self.publish(ended)

    def leave(self) -> None:
        """Give everything back without blame; the log has all that was shown."""
        self.publisher.confirm()
        given_back = self.ledger.release()
        if given_back:
            logger.info("gave %d unfinished jobs back; they go on with the next worker", given_back)
        self.register_death()

    def report(self) -> Mapping[str, Any]:
        """What the heartbeat tells Redis of this worker."""
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if self.engine.has_work else WorkerStatus.IDLE)
        stats = self.engine.stats().as_dict()
        return {
            "state": "draining" if self.is_stopping else self.engine.state,
            "model": self.card.root,
            "started": self.started,
            "jobs_per_s": self._measured_rate(),
            **{name: str(value) for name, value in stats.items()},
            **self.telemetry.report(stats),
        }

    def _begin(self, claim: Claim) -> None:
        request = claim.request
        if self.publisher.has(request.id):  # it was given back, and we did not learn of it
            self._drop(request.id)
        self._held[request.id] = Held(request.id, claim.owner, claim.priority, request.sampling.n, claim.num_made_room)
        self.publisher.open(request.id, claim.num_entries, claim.is_suspect)
        try:
            if claim.revision != self.card.revision:
                raise ModelChanged("The model was changed while this request waited; send it again.")
            self._watched(partial(self.engine.add, request, claim.logged, is_suspect=claim.is_suspect))
        except OmniError as error:
            self.publish([(request.id, Failed(error.code, error.message))])

    def _drop(self, job_id: str) -> None:
        self.engine.cancel(job_id)
        self._close(job_id)
        self.telemetry.forget(job_id)

    def _close(self, job_id: str) -> None:
        self.publisher.close(job_id)
        self._held.pop(job_id, None)
        self._ask_at = 0.0

    def _count(self, event: Event) -> None:
        self._num_ended += 1
        self._line_may_have_moved = True
        if isinstance(event, Finished):
            self.successful_job_count += 1
        else:
            self.failed_job_count += 1

    def _measured_rate(self) -> float:
        """Jobs ended a second, over the last window."""
        elapsed_s = time.monotonic() - self._rate_since
        if elapsed_s > RATE_WINDOW_S:
            self._jobs_per_s = round(self._num_ended / elapsed_s, 4)
            self._num_ended, self._rate_since = 0, time.monotonic()
        return self._jobs_per_s
