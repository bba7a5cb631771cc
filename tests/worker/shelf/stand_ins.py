"""A shelf of engines that take no memory, with a clock and a policy that the test sets."""

import threading
from collections.abc import Mapping
from typing import Any, cast

from common.shelf.table import TableModel
from worker.engine.interface import AnyEngine, KVDemand
from worker.progress import OnProgress
from worker.shelf.changes import Change, Leaving, Opened
from worker.shelf.memory import DeviceMemory
from worker.shelf.opening import Opener
from worker.shelf.place import DeviceNeeds, Place
from worker.shelf.policy import decide
from worker.shelf.shelf import Shelf, ShelfLimits
from worker.shelf.view import Decision, Running, ShelfView, Stay, Swap, Waiting
from worker.shelf.warm.models import WarmModels

MB = 10**6


class StandInEngine:
    """Of a model that takes 100 MB and at least 10 MB of keys and values."""

    def __init__(self, queue: str, memory: "StandInMemory", kv_bytes: int) -> None:
        self.queue, self.memory, self.kv_bytes = queue, memory, kv_bytes
        self.demand = KVDemand(10 * MB, 400 * MB, 10 * MB, 0)
        self.is_closed = False
        memory.used += 100 * MB

    sleeping: Any = None
    mapped_bytes = 0

    def resize_kv(self, num_bytes: int) -> int:
        self.kv_bytes = num_bytes
        return num_bytes

    def take_kv_demand(self) -> KVDemand:
        return self.demand

    def warm_up(self, on_progress: OnProgress) -> None:
        on_progress("ready", 1.0)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True
        self.memory.used -= 0 if self.sleeping and self.sleeping.is_asleep else 100 * MB


class StandInMemory(DeviceMemory):
    """A device of 1 GB."""

    device = "cpu"
    holds_kept = is_elastic = True

    def __init__(self) -> None:
        self.total, self.used, self.others = 1000 * MB, 0, 0

    def capacity(self, droppable: int) -> int:
        return self.total - self.others

    def left(self, mapped: int = 0) -> int:
        return self.total - self.others - self.used - mapped

    def most_mapped(self) -> int:
        return 1000 * MB if self.holds_kept else 500 * MB

    def used_bytes(self) -> int:
        return self.used

    def most_kv(self, weights: int) -> int:
        return self.total

    def return_freed(self) -> None: ...


class StandInKeep:
    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        return dict(self.kept)

    def drop(self, name: str) -> None:
        del self.kept[name]


class ShelfBench:
    """A shelf of the models a, b, c, d, and what it has told."""

    def __init__(
        self,
        *models: TableModel,
        max_loaded: int | None = 1,
        warm_bytes: int = 1000 * MB,
        keep: StandInKeep | None = None,
    ) -> None:
        self.now = 100.0
        self.memory, self.keep = StandInMemory(), keep or StandInKeep()
        self.woken = threading.Event()
        self.decision: Decision | None = Stay("nothing waits")  # None: as the policy decides
        self.views: list[ShelfView] = []
        self.faults: dict[str, BaseException] = {}
        self.gate: threading.Event | None = None  # loads wait for it
        self.engines: list[StandInEngine] = []
        self.mapped = 0  # bytes of files that each engine reads
        self.given_kv: list[int | None] = []  # bytes for each that was opened
        models = models or tuple(TableModel((name,), f"/models/{name}") for name in "abcd")
        size = DeviceNeeds(weights=100 * MB, kv_least=10 * MB, kv_most=400 * MB)
        self.shelf = Shelf(
            [Place(model, size, kept_name=f"weights:{model.queue}") for model in models],
            ShelfLimits(max_loaded, max_swap_wait_s=30.0),
            self.memory,
            Opener(self.memory, num_threads=1, wake=self.woken.set),
            self._open,
            WarmModels(self.keep, warm_bytes),
            self._decide,
            clock=lambda: self.now,
        )

    def _open(self, model: TableModel, on_progress: OnProgress, kv_bytes: int | None) -> AnyEngine:
        on_progress("weights", 0.5)
        self.given_kv.append(kv_bytes)
        if self.gate is not None:
            assert self.gate.wait(10)
        if (fault := self.faults.get(model.queue)) is not None:
            raise fault
        engine = StandInEngine(model.queue, self.memory, kv_bytes or 0)
        engine.mapped_bytes = self.mapped
        self.keep.kept[f"weights:{model.queue}"] = 100 * MB
        self.engines.append(engine)
        return cast(AnyEngine, engine)

    def _decide(self, view: ShelfView) -> Decision:
        self.views.append(view)
        return self.decision or decide(view)

    def advance(
        self, waiting: Mapping[str, Waiting] | None = None, running: Mapping[str, Running] | None = None
    ) -> list[Change]:
        return self.shelf.advance(waiting or {}, running or {})

    def landed(self, waiting: Mapping[str, Waiting] | None = None) -> list[Change]:
        """What is told at the end of the swap that is under way."""
        assert self.woken.wait(10)
        self.woken.clear()
        return self.advance(waiting)

    def swap(self, to: str, *out: str, how: Any = "finish") -> list[Change]:
        """What is told when this swap begins, whose models have nothing to finish, and when it has ended."""
        waiting = {to: Waiting(jobs=1, tier="default")}
        self.decision = Swap(to, out, how, "it waits", 1.0)
        told = self.advance(waiting)
        self.decision = Stay("nothing waits")
        for change in told:
            assert isinstance(change, Leaving)
            self.shelf.closed(change.queue)
        return told + self.advance(waiting) + self.landed(waiting)

    def loaded(self) -> list[str]:
        return [place.queue for place in self.shelf.places if place.is_loaded]

    def place(self, queue: str) -> Place:
        return next(place for place in self.shelf.places if place.queue == queue)


def opened(changes: list[Change]) -> list[str]:
    return [change.queue for change in changes if isinstance(change, Opened)]
