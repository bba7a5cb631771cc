"""Carries out what the shelf decides, between steps: engines come and go, running answers end or are paused."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from threading import Event
from types import MappingProxyType
from typing import Final

from common.errors import ModelLoadFailed
from common.redis.served.shelf import ShelfEntry, ShelfStore
from common.wire import TIERS, Failed, ModelCard
from worker.jobs.served_model import ServedModel, patiently, retried
from worker.jobs.waits import Waits
from worker.shelf.changes import AnyShelf, Change, Leaving, LoadFailed, Opened, Stayed
from worker.shelf.view import Running, Waiting

logger = logging.getLogger("omni.worker")

LOOK_S: Final = 0.05  # between two looks while something is to be decided
CALM_S: Final = 0.25  # and otherwise
REPORT_S: Final = 1.0
NO_FAULTS: Final[Mapping[str, str]] = MappingProxyType({})


class Swaps:
    """One thread calls it. `landed` is set by the shelf's thread when an engine has been opened or closed. `faults`: of
    the models of the table that are not served, by queue."""

    def __init__(
        self, shelf: AnyShelf, models: Mapping[str, ServedModel], landed: Event, faults: Mapping[str, str] = NO_FAULTS
    ) -> None:
        first = next(iter(models.values())).ledger
        self.shelf = shelf
        self.models = models
        self._landed = landed
        self._unserved = tuple(
            ShelfEntry(queue, "failed", fault=text, may_retry=False) for queue, text in faults.items()
        )
        self._store = ShelfStore(first.redis)
        self._waits = Waits(first.redis)
        self._worker_name = first.worker_name
        self._waiting: Mapping[str, Waiting] = {}
        self._leaving: dict[str, bool] = {}  # queue -> whether its answers may end
        self._look_at = self._report_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """True while something may change without a message: rest no longer than LOOK_S."""
        return bool(self._leaving) or any(not self.models[queue].is_loaded for queue in self._waiting)

    def advance(self) -> None:
        """Raises RedisError. Costs nothing while nothing may have changed."""
        unloaded = [model for model in self.models.values() if not model.is_loaded]
        has_moved = [model for model in unloaded if model.inbox.take_moved()]
        has_orders = [model for model in self.models.values() if model.inbox.take_ordered()]
        if not (has_moved or has_orders or self._landed.is_set()) and time.monotonic() < self._look_at:
            return
        self._landed.clear()
        if has_orders or time.monotonic() >= self._report_at:  # a message may be lost
            self._take_orders()
        self._waiting = self._waits.of(list(self.models))
        self._tell_keep_alives()
        has_changed = self._change()
        while self._let_go():
            has_changed = self._change() or has_changed  # what it has left for may be opened at once
        for queue in self._waiting:
            if self.models[queue].fault:
                refuse_jobs(self.models[queue])
        if has_changed or time.monotonic() >= self._report_at:
            self._report()
        self._look_at = time.monotonic() + (LOOK_S if self.is_waiting else CALM_S)

    def _change(self) -> bool:
        running = {queue: running_of(model) for queue, model in self.models.items() if model.is_loaded}
        changes = self.shelf.advance(self._waiting, running)
        for change in changes:
            self._apply(change)
        return bool(changes)

    def leave(self) -> None:
        """The worker ends."""
        patiently(partial(self._store.forget, self._worker_name))

    def _take_orders(self) -> None:
        for order in self._store.take_orders(self.models):
            model = self.models[order.queue]
            self.shelf.order(order.queue, order.action, order.keep_alive_s)
            model.fault = "" if order.action in ("load", "pin") else model.fault
            self._report_at = 0.0  # what is ordered shows at once

    def _tell_keep_alives(self) -> None:
        for queue, model in self.models.items():
            while model.keep_alives:
                self.shelf.keep_alive(queue, model.keep_alives.pop())

    def _apply(self, change: Change) -> None:
        model = self.models[change.queue]
        if isinstance(change, Opened | LoadFailed):
            model.hang_watch.tell_loading("")
        if isinstance(change, Opened):
            self._leaving.pop(change.queue, None)
            self._open(model, change)
        elif isinstance(change, Leaving):
            model.is_admitting = False
            self._leaving[change.queue] = change.finishes
        elif isinstance(change, Stayed):
            self._leaving.pop(change.queue, None)
            model.is_admitting = True
        elif isinstance(change, LoadFailed) and not change.may_retry:
            model.fault = change.fault

    def _open(self, model: ServedModel, opened: Opened) -> None:
        before, card = model.engine.card, opened.engine.card
        model.attach(opened.engine, opened.num_threads)
        model.telemetry.loaded(opened.reason, opened.seconds)
        if is_other(card, before):
            retried(partial(model.ledger.publish_card, card))
        retried(partial(model.adapters.give, model.given_adapters))

    def _let_go(self) -> bool:
        """Let the engines go of whose answers none runs. Raises RedisError; then it is tried again."""
        num_leaving = len(self._leaving)
        for queue, finishes in list(self._leaving.items()):
            model = self.models[queue]
            if not finishes:
                model.give_back(list(model.held))
            if not model.held:
                model.detach()
                del self._leaving[queue]
                self.shelf.closed(queue)
        return len(self._leaving) < num_leaving

    def _tell_load_times(self) -> None:
        etas = self.shelf.etas()
        for queue, model in self.models.items():
            eta = None if model.is_loaded else etas.get(queue)
            unknown_s = 0.0 if model.is_loaded else inf
            expected_s, soonest_s = (eta.expected_s, eta.soonest_s) if eta is not None else (unknown_s, 0.0)
            model.load_times = {"loads_in_ms": ms(expected_s), "soonest_ms": ms(soonest_s)}

    def _report(self) -> None:
        for queue, model in self.models.items():
            if queue not in self._waiting:
                model.paused.clear()  # cancelled, or past their deadlines
        swapped_out = {queue: len(model.paused) for queue, model in self.models.items() if not model.is_loaded}
        self._tell_load_times()
        report = self.shelf.report(self._worker_name, swapped_out)
        self._store.publish(replace(report, entries=(*report.entries, *self._unserved)))
        self._report_at = time.monotonic() + REPORT_S


def ms(seconds: float) -> int:
    """-1: never, or unknown."""
    return round(seconds * 1000) if seconds < inf else -1


def running_of(model: ServedModel) -> Running:
    tiers, times = [job.tier for job in model.held.values()], model.telemetry.times
    return Running(len(tiers), times.left_s(), min(tiers, key=TIERS.index, default=None), len(times.resuming))


def refuse_jobs(model: ServedModel) -> None:
    """Fail what waits for a model that cannot be loaded."""
    while (claim := model.ledger.claim(model.publisher.num_suspects)) is not None:
        model.publisher.open(claim.request.id, claim.num_entries, claim.is_suspect)
        reason = ModelLoadFailed(f"The model {claim.request.model!r} could not be loaded: {model.fault}")
        logger.warning("%s failed: %s", claim.request.id, reason.message)
        model.publish([(claim.request.id, Failed(reason.code, reason.message))])
    model.publish([])


def is_other(card: ModelCard, before: ModelCard) -> bool:
    """Whether the loaded model's card says what that of its folder did not: a context that memory makes shorter."""
    return replace(card, created=before.created) != before
