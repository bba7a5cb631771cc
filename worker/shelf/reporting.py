"""The shelf as the board, the metrics and /v1/models show it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from common.redis.served.shelf import ShelfEntry, ShelfReport
from worker.shelf.etas import Eta, etas
from worker.shelf.place import Place
from worker.shelf.plan import SwapPlan
from worker.shelf.policy import fits, holders, why_held
from worker.shelf.view import ShelfView, Stay

if TYPE_CHECKING:
    from worker.shelf.shelf import Shelf

logger = logging.getLogger("omni.worker")


def view_of(shelf: "Shelf", now: float) -> ShelfView:
    """For the policy."""
    capacity = shelf.capacity()
    pinned = sum(place.least_bytes for place in shelf.places if place.is_loaded and place.is_pinned)
    most = capacity - pinned
    # Estimates may be too high: what does not fit is tried, unless its weights alone do not fit beside pinned models.
    views = tuple(
        place.view(now, max(most, place.fixed_bytes) if pinned else most, shelf.swap_in_s(place))
        for place in shelf.places
    )
    num_most = shelf.limits.max_loaded or len(shelf.places)
    return ShelfView(views, capacity, num_most, shelf.limits.max_swap_wait_s)


def noted_view(shelf: "Shelf", now: float) -> ShelfView:
    """With what pinned models keep from being loaded noted, and orders to load it ended."""
    held = held_models(view_of(shelf, now))
    for place in shelf.places:
        place.held(held.get(place.queue, ""))
    return view_of(shelf, now)


def held_models(view: ShelfView) -> dict[str, str]:
    """The models whose place pinned ones hold, and which these are."""
    return {model.name: why_held(pinned) for model in view.models if (pinned := holders(view, model))}


def may_pin(shelf: "Shelf", place: Place) -> bool:
    """Whether it has a place beside the pinned models, loaded yet or not."""
    view = view_of(shelf, shelf.clock())
    model = next(model for model in view.models if model.name == place.queue)
    pinned = [other for other in view.models if other.is_pinned and other is not model]
    if fits(view, pinned, model):
        return True
    logger.warning("%s is not pinned: %s", place.queue, why_held([other.name for other in pinned]))
    return False


def etas_of(shelf: "Shelf") -> dict[str, Eta]:
    """Of models that are not loaded; infinite where pinned models hold their place."""
    now, plan = shelf.clock(), shelf.plan  # another thread may end it meanwhile
    view = view_of(shelf, now)
    held = dict.fromkeys(held_models(view), Eta(inf, inf))
    if plan is None or plan.to is None:
        return etas(view) | held
    left_s = plan.to.loading_at + shelf.swap_in_s(plan.to) if plan.to.is_loading else plan.ready_at
    out = tuple(place.queue for place in plan.out)
    return etas(view, plan.to.queue, max(0.0, left_s - now), out) | held


def report_of(shelf: "Shelf", worker: str, swapped_out: Mapping[str, int]) -> ShelfReport:
    """`swapped_out`: the paused answers of each model."""
    now, unix, plan = shelf.clock(), time.time(), shelf.plan
    expected = {queue: eta.expected_s for queue, eta in etas_of(shelf).items() if eta.expected_s < inf}
    coming, held = next_load(shelf, plan), held_models(view_of(shelf, now))
    entries = tuple(
        replace(
            entry_of(shelf, place, now, unix, 0.0 if place.is_loaded else expected.get(place.queue)),
            num_swapped_out=swapped_out.get(place.queue, 0),
            why=held.get(place.queue, ""),
        )
        for place in shelf.places
    )
    return ShelfReport(
        worker=worker,
        at=unix,
        device=shelf.memory.device,
        capacity_bytes=shelf.capacity(),
        used_bytes=sum(place.fixed_bytes + kv_bytes(place) for place in shelf.places if place.is_loaded),
        warm_bytes=shelf.warm.num_bytes(shelf.places),
        warm_capacity_bytes=shelf.warm.most_bytes,
        max_loaded=shelf.limits.max_loaded or 0,
        entries=entries,
        next=coming,
        why=plan.why if plan is not None else shelf.decision.why,
        next_in_s=expected.get(coming),
        num_swaps=shelf.num_swaps,
        last_swap=shelf.last_swap,
    )


def next_load(shelf: "Shelf", plan: SwapPlan | None) -> str:
    """The model that is loaded next; empty if none is to be."""
    if plan is not None:
        return plan.to.queue if plan.to is not None else ""
    return shelf.decision.to if isinstance(shelf.decision, Stay) else ""


def entry_of(shelf: "Shelf", place: Place, now: float, unix: float, eta: float | None) -> ShelfEntry:
    what, share = shelf.opener.progress if place.is_loading else ("", 0.0)
    leaves_in = place.busy_at + place.stays_idle_s - now
    return ShelfEntry(
        queue=place.queue,
        status=place.status,
        what=what,
        share=share,
        weights_bytes=place.weights_bytes or place.size.weights,
        kv_bytes=kv_bytes(place),
        is_pinned=place.is_pinned,
        keep_alive_s=place.model.keep_alive_s if place.keep_alive_s is None else place.keep_alive_s,
        unload_at=unix + leaves_in if place.is_loaded and leaves_in < inf else 0.0,
        loaded_at=unix - (now - place.loaded_at) if place.is_loaded else 0.0,
        swap_in_s=shelf.swap_in_s(place),
        eta_s=eta,
        fault=place.fault.text if place.fault is not None else "",
        may_retry=place.may_retry,
    )


def kv_bytes(place: Place) -> int:
    return place.engine.kv_bytes if place.engine is not None else 0
