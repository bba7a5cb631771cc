"""Orders to the shelf (load, unload, pin, unpin), and the wait until they are done."""

import time

import gevent

from api.jobs.service import Service
from api.models.schema import MAX_WAIT_S
from api.prompt.models import other_name
from common.errors import Conflict, InvalidRequest, ModelLoadFailed
from common.redis.served.shelf import Action, Order, ShelfEntry, ShelfStore

POLL_S = 0.05
STALE_S = 1.5  # so long a report may still be one from before the order
STALE_FAULT_S = 3.0  # so long a report may still tell the fault of the loading before


def order_model(
    service: Service, model: str, action: Action, *, keep_alive_s: float | None = None, wait_s: float = 0.0
) -> bool:
    """Have the worker do it. True once it is done, False if it is not after `wait_s`.

    An adapter is loaded with its base. Raises ModelNotFound, ModelNotReady, ModelLoadFailed, InvalidRequest for
    anything else that is asked of an adapter, and Conflict for what a worker with one model cannot do, or where pinned
    models hold the place of a model that is waited for.
    """
    if action == "load" and keep_alive_s == 0:
        raise InvalidRequest("'keep_alive' 0 unloads a model; leave it out to load it.", param="keep_alive")
    queue, is_adapter = queue_of(service, model)
    if is_adapter and action != "load":
        raise InvalidRequest(
            f"{model[:100]!r} is an adapter of {queue!r}, and is there while that is: {action} {queue!r}, or take the "
            "adapter away with /v1/unload_lora_adapter.",
            param="model",
        )
    if not is_shelved(service, queue):
        return done_by_one(service, queue, action)
    before = service.models.places([queue])[queue]
    ordered = Order(queue, action, keep_alive_s, time.time())
    ShelfStore(service.store.redis).order(ordered)
    return wait_for(service, ordered, before, wait_s)


def queue_of(service: Service, model: str) -> tuple[str, bool]:
    """The queue, and whether the id is an adapter's. A model that cannot be loaded may have no card."""
    models = service.models
    for name in (model, other_name(model)):
        if (queue := models.expected.get(name)) is not None:
            return queue, False
        if name in models.shelf.entries():
            return name, False
    card = models.encoder(model, task=None).card
    return card.queue, bool(card.adapter)


def is_shelved(service: Service, queue: str) -> bool:
    """Whether a worker with several models has this one; it takes an order that was given while there was none."""
    return queue in {model.queue for model in service.settings.models} or queue in service.models.shelf.entries(0)


def done_by_one(service: Service, queue: str, action: Action) -> bool:
    """Of a worker with one model, which loads it when it starts and keeps it."""
    if action in ("unload", "unpin"):
        raise Conflict(f"The model {queue!r} has a worker to itself and stays loaded; OMNI_MODELS is for several.")
    return service.models.places([queue])[queue].status == "loaded"


def wait_for(service: Service, ordered: Order, before: ShelfEntry, wait_s: float) -> bool:
    """Raises ModelLoadFailed, and Conflict where pinned models hold its place."""
    deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
    was_loading = False
    while True:
        entry = service.models.shelf.entries(0).get(ordered.queue, before)
        if is_done(ordered, entry):
            return True
        is_new = was_loading or entry.fault != before.fault or time.time() - ordered.at > STALE_FAULT_S
        if ordered.action in ("load", "pin") and entry.fault and entry.status != "loading" and is_new:
            raise ModelLoadFailed(f"The model {ordered.queue!r} could not be loaded: {entry.fault}")
        if ordered.action in ("load", "pin") and entry.why and time.time() - ordered.at > STALE_S:
            raise Conflict(f"The model {ordered.queue!r} cannot be loaded: {entry.why}. Unpin one of them first.")
        was_loading = was_loading or entry.status == "loading"
        if time.monotonic() >= deadline:
            return False
        gevent.sleep(POLL_S)


def is_done(ordered: Order, entry: ShelfEntry) -> bool:
    """Of a model that is loaded already, once its report has the order's keep_alive."""
    is_taken = ordered.keep_alive_s in (None, entry.keep_alive_s) or time.time() - ordered.at > STALE_S
    return {
        "load": entry.status == "loaded" and is_taken,
        "unload": entry.status in ("warm", "cold", "failed"),
        "pin": entry.is_pinned and entry.status == "loaded",
        "unpin": not entry.is_pinned,
    }[ordered.action]
