"""What the shelf tells the worker's loop, and what the loop asks of it. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from common.redis.served.shelf import Action, ShelfReport
from worker.engine.interface import AnyEngine
from worker.shelf.etas import Eta
from worker.shelf.view import Running, Waiting

# Why models come and go, for the metrics: what waits, an operator, idleness, the start, a load that failed.
Reason = Literal["waiting", "order", "idle", "start", "return"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A model is loaded: its jobs may run. compute_with(num_threads) goes before each add() and step()."""

    queue: str
    engine: AnyEngine
    num_threads: int
    reason: Reason = "waiting"
    seconds: float | None = None  # that loading took; None: it had not left yet


@dataclass(frozen=True, slots=True)
class Leaving:
    """A model is to leave: admit no more of its jobs, and call closed() once none of them runs.

    With `finishes` its running answers may end; otherwise they go back into their queue now.
    """

    queue: str
    finishes: bool
    why: str
    to: str = ""  # the model that comes for it
    eta_s: float = 0.0  # until `to` is loaded
    reason: Reason = "waiting"


@dataclass(frozen=True, slots=True)
class Stayed:
    """A model that was to leave stays: its jobs may be admitted again."""

    queue: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model could not be loaded. Unless it `may_retry`, it is not tried again before an operator orders it."""

    queue: str
    fault: str  # one sentence
    may_retry: bool


Change = Opened | Leaving | Stayed | LoadFailed


class AnyShelf(Protocol):
    """One thread calls it, between steps. It opens and closes engines in another one."""

    def advance(self, waiting: Mapping[str, Waiting], running: Mapping[str, Running]) -> list[Change]:
        """What has changed, in order. A model that is not named has nothing.

        Takes no longer than a step, but for the seconds in which steps of a new model are recorded on a GPU.
        """

    def closed(self, queue: str) -> None:
        """None of its answers runs any more, and the caller has let go of its engine."""

    def order(self, queue: str, action: Action, keep_alive_s: float | None = None) -> None:
        """What an operator, or a caller of Ollama's API, wants of one model."""

    def keep_alive(self, queue: str, seconds: float | None) -> None:
        """What the latest request says: stay so long without work. Below 0 for ever; None: as the table says."""

    def died_loading(self, queue: str, times: int = 1) -> None:
        """A worker before this one has died while it loaded this model, so many times in a row."""

    def etas(self) -> dict[str, Eta]:
        """Of each model that is not loaded and fits; infinite where pinned models hold its place.

        Takes some tenths of a millisecond for each model.
        """

    def report(self, worker: str, swapped_out: Mapping[str, int]) -> ShelfReport:
        """For the board; may be called from any thread. `swapped_out`: the paused answers of each model."""
