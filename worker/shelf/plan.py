"""What is done next: models that leave, and the one that is loaded then."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.shelf.changes import Change, Leaving, Opened, Reason, Stayed
from worker.shelf.place import Place
from worker.shelf.view import Swap

logger = logging.getLogger("omni.worker")


@dataclass
class SwapPlan:
    """Made by the shelf, and carried out over several calls of advance()."""

    to: Place | None
    out: tuple[Place, ...]
    why: str
    reason: Reason
    ready_at: float  # as expected
    finishes: bool = True  # running answers may end
    is_wanted: bool = False  # also when nothing waits for `to`
    closed: set[str] = field(default_factory=set)
    is_under_way: bool = False  # engines are being closed and opened

    @property
    def is_clear(self) -> bool:
        """Nothing of the models that leave runs any more."""
        return len(self.closed) == len(self.out)

    @property
    def is_in_vain(self) -> bool:
        """What it was made for has been cancelled or is served elsewhere; a model that had no work has some."""
        if self.to is None:
            return self.finishes and any(place.waiting.jobs for place in self.out)
        is_asked_for = self.to.waiting.jobs > 0 or self.to.ordered_at is not None or self.to.is_pinned
        return not self.is_wanted and not is_asked_for


def swap_plan(swap: Swap, places: dict[str, Place], now: float) -> SwapPlan:
    out = tuple(places[queue] for queue in swap.out)
    return SwapPlan(places[swap.to], out, swap.why, "waiting", now + swap.in_s, swap.how == "finish")


def idle_plan(places: Sequence[Place], now: float) -> SwapPlan | None:
    """Models that have had no work for as long as they stay without."""
    out = [place for place in places if place.is_loaded and place.is_idle and now - place.busy_at >= place.stays_idle_s]
    if not out:
        return None
    return SwapPlan(None, tuple(out), f"{out[0].queue} has had no work for {now - out[0].busy_at:.0f} s", "idle", now)


def begin(plan: SwapPlan, now: float) -> list[Change]:
    """What the loop is told of the models that leave."""
    to = plan.to.queue if plan.to is not None else ""
    names = ", ".join(place.queue for place in plan.out)
    what = f"{names} leaves for {to}" if to and names else f"{names} leaves" if names else f"{to} is to be loaded"
    logger.info("%s: %s", what, plan.why)
    eta_s = max(0.0, plan.ready_at - now)
    return [Leaving(place.queue, plan.finishes, plan.why, to, eta_s, plan.reason) for place in plan.out]


def stays(place: Place, plan: SwapPlan) -> Change:
    """A model that need not leave any more."""
    if place.queue in plan.closed and place.engine is not None:  # the loop has let go of it
        return Opened(place.queue, place.engine, place.num_threads)
    return Stayed(place.queue)
