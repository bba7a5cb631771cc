"""The shelf: which models of the table are loaded. It carries out what the policy decides, and what operators order."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from common.redis.served.shelf import Action, ShelfReport
from common.shelf.table import TableModel
from worker.engine.interface import AnyEngine
from worker.progress import OnProgress
from worker.shelf.changes import Change, Leaving, LoadFailed, Opened
from worker.shelf.etas import Eta
from worker.shelf.kv_sharing import share_kv
from worker.shelf.memory import DeviceMemory
from worker.shelf.opening import DIED, Fault, Landed, Opener
from worker.shelf.place import NOTHING_RUNS, NOTHING_WAITS, Place
from worker.shelf.plan import SwapPlan, begin, idle_plan, stays, swap_plan
from worker.shelf.policy import decide
from worker.shelf.reporting import etas_of, may_pin, noted_view, report_of
from worker.shelf.swap_times import SwapTimes
from worker.shelf.view import Decision, Running, ShelfView, Stay, Swap, Waiting
from worker.shelf.warm.models import WarmModels
from worker.shelf.warm.room import gib, opened_in_room

logger = logging.getLogger("omni.worker")

OpenEngine = Callable[[TableModel, OnProgress, int | None], AnyEngine]  # not warmed up; the last: bytes for KV
LEAST_PATIENCE_S = 2.0  # for answers that may finish, beyond what was expected; then they are paused
MEASURE_S = 1.0
PLAUSIBLE = 4.0  # a measured size counts up to so many times the estimate, and down to its inverse


@dataclass(frozen=True, slots=True)
class ShelfLimits:
    max_loaded: int | None  # None: as many as fit
    max_swap_wait_s: float


class Shelf:
    """See AnyShelf."""

    def __init__(
        self,
        places: Sequence[Place],
        limits: ShelfLimits,
        memory: DeviceMemory,
        opener: Opener,
        open_engine: OpenEngine,
        warm: WarmModels,
        decide: Callable[[ShelfView], Decision] = decide,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = list(places)
        self.limits = limits
        self.memory = memory
        self.opener = opener
        self.warm = warm
        self.times = SwapTimes()
        self.plan: SwapPlan | None = None
        self.decision: Decision = Stay("nothing waits")
        self.num_swaps = 0
        self.last_swap = ""
        self.clock = clock
        self._open_engine = open_engine
        self._decide = decide
        self._by_queue = {place.queue: place for place in places}
        self._capacity, self._measure_at, self._noted_at = 0, -inf, clock()
        self._first: Place | None = self.places[0]  # loaded at the start, unless something waits for another one
        self._returning: list[Place] = []  # they left for a model that could not be loaded then
        self._unloads: list[Place] = []  # as ordered
        warm.drop_strangers(self.places)

    def advance(self, waiting: Mapping[str, Waiting], running: Mapping[str, Running]) -> list[Change]:
        """See AnyShelf. Raises RuntimeError when the GPU is lost."""
        self.opener.turn.give()
        now = self.clock()
        changes = self._land(now)
        for place in self.places:
            queue, passed_s = place.queue, now - self._noted_at
            place.note(waiting.get(queue, NOTHING_WAITS), running.get(queue, NOTHING_RUNS), now, passed_s)
        self._noted_at = now
        if self.plan is None:
            self.plan = self._next(now)
            if self.plan is not None:
                changes += begin(self.plan, now)
        if self.plan is not None and not self.plan.is_under_way:
            changes += self._follow(self.plan, now)
        return changes

    def closed(self, queue: str) -> None:
        """See AnyShelf."""
        if self.plan is not None:
            self.plan.closed.add(queue)

    def order(self, queue: str, action: Action, keep_alive_s: float | None = None) -> None:
        """See AnyShelf."""
        place = self._by_queue.get(queue)
        if place is None or (action == "pin" and not may_pin(self, place)):
            return
        if action in ("load", "pin") or keep_alive_s is not None:
            place.stay(keep_alive_s, is_order=action in ("load", "pin"))
        if action in ("pin", "unpin"):
            place.pin(is_pinned=action == "pin")
        if action in ("load", "pin"):
            place.want(self.clock())
            self._unloads = [other for other in self._unloads if other is not place]
        elif action == "unload" and keep_alive_s != 0:  # with 0 it leaves when it has nothing to do
            place.is_pinned, place.ordered_at = False, None
            self._unloads.append(place)

    def keep_alive(self, queue: str, seconds: float | None) -> None:
        """See AnyShelf."""
        self._by_queue[queue].keep_alive_s = seconds

    def died_loading(self, queue: str, times: int = 1) -> None:
        """See AnyShelf."""
        place = self._by_queue.get(queue)
        if place is not None:
            place.num_failures = times - 1
            place.failed(DIED, self.clock())

    def report(self, worker: str, swapped_out: Mapping[str, int]) -> ShelfReport:
        """See AnyShelf."""
        return report_of(self, worker, swapped_out)

    def etas(self) -> dict[str, Eta]:
        """See AnyShelf."""
        return etas_of(self)

    def capacity(self) -> int:
        """Bytes for models. Measured once a second: reading it takes longer than all else here."""
        now = self.clock()
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_S
            self._capacity = self.memory.capacity(self.warm.num_bytes(self.places))
        return self._capacity

    def swap_in_s(self, place: Place) -> float:
        return self.times.expected(place.queue, place.fixed_bytes, is_warm=place.is_kept)

    def _next(self, now: float) -> SwapPlan | None:
        """What to do now, if anything."""
        while self._returning:
            place = self._returning.pop(0)
            if not place.is_loaded:
                return SwapPlan(place, (), "it returns", "return", now + self.swap_in_s(place), is_wanted=True)
        while self._unloads:
            place = self._unloads.pop(0)
            if place.is_loaded:
                if not place.is_idle:
                    place.held_until = now + self.limits.max_swap_wait_s
                return SwapPlan(None, (place,), "an operator has ordered it", "order", now, finishes=False)
        if (plan := idle_plan(self.places, now)) is not None:
            return plan
        self.decision = self._decide(noted_view(self, now))
        if isinstance(self.decision, Swap):
            return swap_plan(self.decision, self._by_queue, now)
        first = self._first
        if first is not None and first.can_load(now) and not any(place.waiting.jobs for place in self.places):
            return SwapPlan(first, (), "nothing waits", "start", now + self.swap_in_s(first), is_wanted=True)
        return None

    def _follow(self, plan: SwapPlan, now: float) -> list[Change]:
        """Wait for the models that leave; then let the engines be closed and opened."""
        if plan.is_in_vain:
            self.plan = None
            return [stays(place, plan) for place in plan.out]
        if plan.is_clear:
            self._swap(plan, now)
        elif plan.finishes and now > plan.ready_at + LEAST_PATIENCE_S and plan.to is not None:
            plan.finishes = False
            late = [place for place in plan.out if place.queue not in plan.closed]
            eta_s = self.swap_in_s(plan.to)
            return [Leaving(place.queue, False, plan.why, plan.to.queue, eta_s, plan.reason) for place in late]
        return []

    def _swap(self, plan: SwapPlan, now: float) -> None:
        """Nothing of what leaves runs any more: close it, and open what comes."""
        plan.is_under_way = True
        leaves = [self.warm.leave(place.kept_name, place.left(now)) for place in plan.out]
        opens = None
        if (to := plan.to) is not None:
            to.begins(now)
            kv_bytes = share_kv(self.places, self.capacity(), self.memory, self.limits.max_loaded, comes=to)
            opens = partial(self._opened, to, kv_bytes)
        self.warm.trim(self.places)
        self.opener.begin(leaves, opens)

    def _opened(self, place: Place, kv_bytes: int, on_progress: OnProgress) -> AnyEngine:
        """In the opener's thread, once what leaves is closed."""
        opens = partial(self._open_engine, place.model, on_progress, kv_bytes or None)
        return opened_in_room(place, self.places, self.memory, self.warm, kv_bytes or None, opens)

    def _land(self, now: float) -> list[Change]:
        """The end of a swap, if there was one."""
        landed, plan = self.opener.take(), self.plan
        if landed is None or plan is None:
            return []
        self.plan, self._measure_at = None, -inf
        if landed.fault is not None and landed.fault.is_final:
            raise RuntimeError(landed.fault.text)
        changes: list[Change] = []
        if plan.to is not None and landed.engine is not None:
            changes.append(self._loaded(plan, plan.to, landed.engine, landed, now))
        elif plan.to is not None and landed.fault is not None:
            changes.append(self._failed(plan, plan.to, landed.fault, now))
        elif landed.fault is not None:
            logger.error("a model has left with an error: %s", landed.fault.text)
        self.warm.trim(self.places)
        share_kv(self.places, self.capacity(), self.memory, None)
        return changes

    def _loaded(self, plan: SwapPlan, place: Place, engine: AnyEngine, landed: Landed, now: float) -> Change:
        was_warm = place.is_kept
        self.warm.look(self.places)
        if not place.weights_bytes:
            mapped = engine.mapped_bytes if self.memory.holds_kept else 0
            grown = landed.grown_bytes - (0 if self.memory.holds_kept else engine.kv_bytes)
            kept = place.kept_bytes
            place.weights_bytes = kept + mapped if kept else plausible(grown + mapped, place.size.weights)
        self.times.measured(place.queue, place.fixed_bytes, landed.seconds, is_warm=was_warm)
        place.opened(engine, landed.num_threads, now)
        self._first = None
        self.num_swaps += bool(plan.out)
        left = ", ".join(other.queue for other in plan.out)
        self.last_swap = f"{left} -> {place.queue} in {landed.seconds:.1f} s" if left else self.last_swap
        log_loaded(place, landed.seconds, was_warm=was_warm)
        return Opened(place.queue, engine, landed.num_threads, plan.reason, landed.seconds)

    def _failed(self, plan: SwapPlan, place: Place, fault: Fault, now: float) -> Change:
        is_alone = not any(other.is_loaded for other in self.places)
        place.failed(fault, now, is_alone=is_alone)
        place.needs_all |= fault.is_out_of_memory and not is_alone
        self._returning += plan.out
        log_failed(plan, place, fault, now)
        return LoadFailed(place.queue, fault.text, place.may_retry)


def log_loaded(place: Place, seconds: float, *, was_warm: bool) -> None:
    source = "memory" if was_warm else "its files"
    rate = place.weights_bytes / 1e9 / seconds
    size = gib(place.weights_bytes)
    logger.info("%s is loaded from %s: %s GiB in %.2f s, %.2f GB/s", place.queue, source, size, seconds, rate)


def log_failed(plan: SwapPlan, place: Place, fault: Fault, now: float) -> None:
    then = f"it is tried again in {place.retry_at - now:.0f} s" if place.may_retry else "it is not tried again"
    back = ", ".join(other.queue for other in plan.out)
    back = f"; {back} returns" if back else ""
    logger.error("%s could not be loaded, %s%s: %s", place.queue, then, back, fault.text)


def plausible(measured: int, estimate: int) -> int:
    """Other things grow meanwhile, and what is mapped is counted only once it is read."""
    if estimate <= 0:
        return max(0, measured)
    return int(min(max(measured, estimate / PLAUSIBLE), estimate * PLAUSIBLE))
