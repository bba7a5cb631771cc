"""The items of GET /v1/models: a card, and where its model is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from api.jobs.service import Service
from api.prompt.models import describe, other_name
from common.errors import ModelNotReady
from common.redis.served.shelf import ModelStatus, ShelfEntry
from common.wire import ModelCard

# llama.cpp's router's words, for its clients; ours in `state` tell more.
VALUES: Mapping[ModelStatus, str] = MappingProxyType({"loaded": "loaded", "loading": "loading"})


def model_objects(service: Service) -> list[dict[str, Any]]:
    """All ids and adapters that are served, then the models that have no card: their files cannot be read."""
    cards = service.models.cards()
    directory = service.store.directory
    queues = {card.queue for _, card in cards}
    entries = service.models.places(queues)
    waiting = {queue: directory.num_waiting(queue) for queue in queues}
    found = [
        describe(name, card)
        | {"task": card.task, "size": size_of(card, entries[card.queue])}
        | shelf_fields(entries[card.queue])
        | {"waiting": waiting[card.queue]}
        for name, card in cards
    ]
    return found + [
        without_card(entry) | {"waiting": directory.num_waiting(queue)}
        for queue, entry in service.models.shelf.entries().items()
        if queue not in queues
    ]


def model_object(service: Service, name: str) -> dict[str, Any]:
    """Raises ModelNotFound, ModelNotReady or ModelLoadFailed."""
    objects = model_objects(service)
    for wanted in (name, other_name(name)):
        for found in objects:
            if found["id"] == wanted:
                return found
    service.models.encoder(name, task=None)
    raise ModelNotReady("Model not ready")


def shelf_fields(entry: ShelfEntry) -> dict[str, Any]:
    """What the shelf says of a model. Sizes in bytes, durations in seconds."""
    is_loaded = entry.status == "loaded"
    return {
        "status": status_of(entry),
        "memory": entry.memory_bytes,
        "pinned": entry.is_pinned,
        "keep_alive": entry.keep_alive_s,
        "expires_at": entry.unload_at or None,
        "loaded_at": entry.loaded_at or None,
        "eta_s": 0.0 if is_loaded else entry.eta_s,
        "swapped_out": entry.num_swapped_out,
    }


def status_of(entry: ShelfEntry) -> dict[str, Any]:
    """`value` is llama.cpp's word, `state` ours. A model is unloaded while it is warm, cold or failed."""
    status: dict[str, Any] = {"value": VALUES.get(entry.status, "unloaded"), "state": entry.status}
    if entry.status == "loading":
        status |= {"progress": round(entry.share, 3), "what": entry.what}
    if entry.why:
        status["why"] = entry.why
    if entry.fault:
        status |= {"failed": True, "reason": entry.fault}
    return status


def size_of(card: ModelCard, entry: ShelfEntry) -> int:
    """Of the weights: in their files, or where that is not known on the device."""
    return card.file_bytes or entry.weights_bytes


def without_card(entry: ShelfEntry) -> dict[str, Any]:
    card = ModelCard(entry.queue, (entry.queue,), "", "", "", 0, 0, 0, "", None)
    described = describe(entry.queue, card) | {"root": None, "max_model_len": None, "architecture": None}
    return described | {"task": None, "size": entry.weights_bytes} | shelf_fields(entry)
