"""OmniWorker: an RQ worker that runs many jobs of each of its models at once, in one process.

RQ is known only here, in api/jobs/generation.py and in the dashboard. The records of jobs are written by the scripts of
common/redis/scripts, in the same step as our own state, so that RQ's registries are always right; this class
registers the worker itself.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from common.flag import Flag
from worker.jobs.hang_watch import HangWatch
from worker.jobs.queue_head import IDLE_S
from worker.jobs.served_model import ServedModel, patiently
from worker.jobs.swaps import LOOK_S, Swaps
from worker.jobs.turns import FairTurns

logger = logging.getLogger("omni.worker")


class OmniWorker(SimpleWorker):  # type: ignore[misc]
    """The loop: end cancelled jobs, admit the heads of the queues, step one model, publish."""

    def __init__(
        self, models: Sequence[ServedModel], wake: Flag, hang_watch: HangWatch, swaps: Swaps | None = None
    ) -> None:
        first = models[0].ledger
        super().__init__(
            [model.queue for model in models],
            name=first.worker_name,
            connection=first.redis,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.models = {model.queue: model for model in models}
        self.swaps = swaps  # None: one model, always loaded
        self.wake = wake
        self.is_stopping = False
        hang_watch.on_orphaned = self.stop
        self._turns = FairTurns()

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run until stop(); leave() comes next. Raises Fenced when another process has taken our jobs over."""
        patiently(self.register_birth)
        while not self.is_stopping:
            self.wake.clear()  # before what it stands for is looked at
            if self.swaps is not None:
                patiently(self.swaps.advance)
            for model in self.models.values():
                patiently(model.adapters.follow_if_changed)
                model.cancel_requested()
                patiently(model.admit)
                patiently(model.make_room)
            self.step_or_rest()
        for model in self.models.values():
            model.publisher.confirm()  # while the leases are still renewed
        return True

    def stop(self, *_: object) -> None:
        """SIGTERM: the loop ends after the current step; unfinished jobs go back into their queues."""
        self.is_stopping = True
        for model in self.models.values():
            model.is_stopping = True
            model.inbox.wake()

    def step_or_rest(self) -> None:
        """Step the model whose turn it is; without any work, wait for a wake-up."""
        busy = []
        for queue, model in self.models.items():
            if model.engine.has_work:
                busy.append(queue)
            else:
                model.publish([])  # confirm its last step
        if busy:
            queue = self._turns.next(busy)
            started = time.monotonic()
            self.models[queue].step()
            self._turns.took(queue, time.monotonic() - started)
        elif not self.is_stopping:
            self.wake.wait(LOOK_S if self.swaps is not None and self.swaps.is_waiting else IDLE_S)

    def leave(self) -> None:
        """Give all jobs back without blame; their logs hold every event."""
        if self.swaps is not None:
            self.swaps.leave()
        given_back = sum(model.leave() for model in self.models.values())
        if given_back:
            logger.info("unfinished jobs returned to the queue: %d; the next worker continues them", given_back)
        self.register_death()

    def beat(self) -> None:
        """RQ's own record of this worker."""
        self.heartbeat()
        has_work = any(model.engine.has_work for model in self.models.values())
        self.set_state(WorkerStatus.BUSY if has_work else WorkerStatus.IDLE)
