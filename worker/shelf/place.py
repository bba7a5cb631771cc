"""One model of the table: where it is, what was measured of it, and what is wanted of it."""

import logging
from dataclasses import dataclass, field, replace
from math import inf

from common.redis.served.shelf import ModelStatus
from common.shelf.table import TableModel
from worker.engine.interface import AnyEngine, KVDemand
from worker.shelf.opening import Fault
from worker.shelf.view import ModelView, Running, Waiting

logger = logging.getLogger("omni.worker")

ATTEMPTS_ALONE = 3
ORDERED_S = 300.0  # as Ollama's models stay
NOTHING_WAITS, NOTHING_RUNS = Waiting(), Running()


@dataclass(frozen=True, slots=True)
class DeviceNeeds:
    """What a model is expected to take on the device, from its files. In bytes."""

    weights: int
    kv_least: int  # keys and values of one sequence of the longest length
    kv_most: int  # more is of no use
    workspace: int = 0  # of its steps, on a GPU


@dataclass
class Place:
    """Times are of the shelf's clock."""

    model: TableModel
    size: DeviceNeeds
    kept_name: str = ""  # of its weights in host memory
    engine: AnyEngine | None = None
    num_threads: int = 1
    kept_bytes: int = 0  # of its weights in host memory
    is_loading: bool = False
    is_pinned: bool = False
    keep_alive_s: float | None = None  # the latest request's, or an order's
    ordered_at: float | None = None  # it is to be loaded, whether anything waits for it or not
    held_until: float = -inf  # unloaded by an order: what waits for it does not load it before
    loading_at: float = 0.0  # when its load began
    loaded_at: float = 0.0
    left_at: float = -inf
    busy_at: float = 0.0  # when it last had something to do
    work_s: float = 0.0  # since it was loaded, while it had something to do
    resume_s: float = 0.0  # of work_s, while answers were being computed again; of its last stay, when it has left
    weights_bytes: int = 0  # measured; 0: not yet
    mapped_bytes: int = 0  # of host memory: files that its engine reads at each step, once it was loaded
    needs_all: bool = False  # it did not fit beside others
    why: str = ""  # why it cannot be loaded as things stand: pinned models hold its place
    is_told: bool = False  # the log has said so
    fault: Fault | None = None
    num_failures: int = 0  # in a row
    num_alone: int = 0  # of these, for too little memory with the device for itself
    retry_at: float = -inf
    waiting: Waiting = NOTHING_WAITS
    running: Running = NOTHING_RUNS
    demand: KVDemand = field(default_factory=KVDemand)  # the last one taken

    def __post_init__(self) -> None:
        self.is_pinned = self.model.is_pinned

    @property
    def queue(self) -> str:
        return self.model.queue

    @property
    def is_loaded(self) -> bool:
        return self.engine is not None

    @property
    def is_kept(self) -> bool:
        return self.kept_bytes > 0

    @property
    def fixed_bytes(self) -> int:
        """Of the device, without keys and values."""
        return (self.weights_bytes or self.size.weights) + self.size.workspace

    @property
    def least_bytes(self) -> int:
        least = self.demand.least_bytes if self.is_loaded else self.size.kv_least
        return self.fixed_bytes + least

    @property
    def status(self) -> ModelStatus:
        if self.is_loaded:
            return "loaded"
        if self.is_loading:
            return "loading"
        if self.fault is not None:
            return "failed"
        return "warm" if self.is_kept else "cold"

    @property
    def is_idle(self) -> bool:
        return self.waiting.jobs == 0 and self.running.answers == 0

    @property
    def stays_idle_s(self) -> float:
        """How long it stays without work; infinite: until its place is needed."""
        seconds = self.model.keep_alive_s if self.keep_alive_s is None else self.keep_alive_s
        return inf if seconds is None or seconds < 0 or self.is_pinned else seconds

    def can_load(self, now: float) -> bool:
        return now >= max(self.retry_at, self.held_until)

    def note(self, waiting: Waiting, running: Running, now: float, passed_s: float) -> None:
        """What waits and runs, `passed_s` after the last time."""
        was_idle = self.is_idle
        if self.is_loaded and not was_idle:
            self.work_s += passed_s
            self.resume_s += passed_s if self.running.resuming else 0.0
        self.waiting, self.running = waiting, running
        if not (was_idle and self.is_idle):
            self.busy_at = now

    def want(self, now: float) -> None:
        """An operator orders it: whatever has failed or held it before."""
        self.busy_at, self.held_until, self.retry_at = now, -inf, -inf
        self.fault, self.num_failures, self.num_alone, self.needs_all = None, 0, 0, False
        self.ordered_at = None if self.is_loaded else now

    def pin(self, *, is_pinned: bool) -> None:
        """Unpinned, it is not loaded for the pin any more either."""
        if self.is_pinned and not is_pinned:
            self.ordered_at = None
        self.is_pinned = is_pinned

    def held(self, why: str) -> None:
        """`why`: which pinned models hold its place; empty: none does. An order to load it ends then."""
        if why != self.why:
            self.why, self.is_told = why, False
        if why and not self.is_told and (self.waiting.jobs or self.ordered_at is not None or self.is_pinned):
            logger.warning("%s cannot be loaded: %s", self.queue, why)
            self.is_told = True
        self.ordered_at = None if why else self.ordered_at

    def begins(self, now: float) -> None:
        """Its load begins."""
        self.is_loading, self.loading_at, self.fault = True, now, None

    def opened(self, engine: AnyEngine, num_threads: int, now: float) -> None:
        self.engine, self.num_threads = engine, num_threads
        self.loaded_at = self.busy_at = now
        self.work_s = self.resume_s = 0.0
        self.demand = engine.take_kv_demand()
        self.mapped_bytes = engine.mapped_bytes
        self.fault, self.num_failures, self.num_alone, self.retry_at = None, 0, 0, -inf
        self.is_loading, self.ordered_at, self.held_until = False, None, -inf

    def failed(self, fault: Fault, now: float, *, is_alone: bool = False) -> None:
        """`is_alone`: it had the device for itself. Too little memory is then final after some attempts."""
        self.num_failures += 1
        self.num_alone += is_alone and fault.is_out_of_memory
        self.fault = replace(fault, may_retry=fault.may_retry and self.num_alone < ATTEMPTS_ALONE)
        self.retry_at = now + self.fault.pause_s(self.num_failures)
        self.is_loading = False
        if not self.fault.may_retry:
            self.ordered_at = None

    @property
    def may_retry(self) -> bool:
        return self.fault is None or self.fault.may_retry

    def stay(self, keep_alive_s: float | None, *, is_order: bool) -> None:
        """Without work; None: as the table says. Who orders a model wants to find it: then it stays for a while."""
        self.keep_alive_s = keep_alive_s
        if is_order and self.stays_idle_s == 0:
            self.keep_alive_s = ORDERED_S

    def left(self, now: float) -> AnyEngine | None:
        """Its engine, which the caller closes."""
        engine, self.engine = self.engine, None
        self.left_at, self.demand, self.running = now, KVDemand(), NOTHING_RUNS
        return engine

    def view(self, now: float, most_bytes: int, swap_in_s: float) -> ModelView:
        """For the policy. `most_bytes`: what it can have at most, without the pinned models."""
        return ModelView(
            name=self.queue,
            bytes=self.least_bytes
            if self.is_loaded
            else most_bytes
            if self.needs_all
            else min(self.least_bytes, most_bytes),
            swap_in_s=swap_in_s,
            is_loaded=self.is_loaded,
            is_pinned=self.is_pinned,
            can_load=self.can_load(now),
            work_s=self.work_s,
            resume_s=self.resume_s,
            idle_s=now - self.busy_at if self.is_loaded else 0.0,
            away_s=now - self.left_at,
            waiting=self.waiting,
            running=self.running,
            ordered_s=None if self.ordered_at is None else now - self.ordered_at,
        )
