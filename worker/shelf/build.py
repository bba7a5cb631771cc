"""Puts the shelf of a service together, of its settings and of its table of models."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from common.model.fault import FolderFault
from common.model.folder import size_of_weights
from common.process.machine_memory import available_bytes
from common.settings import Settings
from common.shelf.table import TableModel
from common.wire import ModelCard
from worker.shelf.memory import memory_of
from worker.shelf.opening import Fault, Opener, threads_of_this_thread
from worker.shelf.place import DeviceNeeds, Place
from worker.shelf.shelf import OpenEngine, Shelf, ShelfLimits
from worker.shelf.warm.models import WEIGHTS, AnyKeep, WarmModels
from worker.shelf.warm.sleepers import Sleepers

logger = logging.getLogger("omni.worker")

WARM_SHARE = 0.5  # of the memory that is available at the start, where OMNI_WARM_MEMORY is not set
SMALL_KV = 2**30  # is always granted to a sequence of the longest length; more only up to half of the weights
USUAL_SEQS = 64
SURVEY_AFTER_S = 5.0  # the first model is served by then
NO_FAULTS: Final[Mapping[str, str]] = MappingProxyType({})


def shelf_of(
    settings: Settings,
    cards: Mapping[str, ModelCard],
    keep: AnyKeep,
    kept_name: Callable[[TableModel], str],
    open_engine: OpenEngine,
    wake: Callable[[], None],
    faults: Mapping[str, str] = NO_FAULTS,
) -> Shelf:
    """`cards`: of all models, by queue; `kept_name`: of a model's weights in `keep`; `wake`: see Opener; `faults`: of
    models whose files are broken, which are not loaded before an order.

    Call it when all libraries are loaded and no model is: their objects are not searched for garbage from here on,
    which would take most of a second at each swap. Raises NoSuchDevice.
    """
    gc.collect()
    gc.freeze()
    warm_bytes = settings.shelf.warm_memory
    memory = memory_of(settings.model.device, settings.model.gpu_memory_utilization, may_sleep=warm_bytes != 0)
    places = [
        Place(model, guessed_needs(model), kept_name(model) if memory.holds_kept else f"{WEIGHTS}{model.queue}")
        for model in settings.models
    ]
    for place in places:
        if place.queue in faults:
            place.failed(Fault(faults[place.queue], may_retry=False), time.monotonic())
    limits = ShelfLimits(settings.shelf.max_loaded, settings.shelf.max_swap_wait)
    most_bytes = int(available_bytes() * WARM_SHARE) if warm_bytes is None else warm_bytes
    warm = WarmModels(keep if memory.holds_kept else Sleepers(most_bytes), most_bytes)
    opener = Opener(memory, threads_of_this_thread(), wake)
    survey = threading.Timer(SURVEY_AFTER_S, survey_needs, (places, settings, cards, opener.building))
    survey.daemon = True
    survey.start()
    tell_pins(places, limits)
    return Shelf(places, limits, memory, opener, open_engine, warm)


def tell_pins(places: Sequence[Place], limits: ShelfLimits) -> None:
    """Say that pinned models of the table are too many; that they are too large shows when the first are loaded."""
    pinned = [place.queue for place in places if place.is_pinned]
    if limits.max_loaded is not None and len(pinned) > limits.max_loaded:
        most = limits.max_loaded
        logger.warning("OMNI_MAX_LOADED_MODELS=%d has no place for all pinned models: %s", most, ", ".join(pinned))


def guessed_needs(model: TableModel) -> DeviceNeeds:
    """Before its files' headers are read: as large as they are."""
    try:
        weights = size_of_weights(model.source)
    except (OSError, FolderFault):  # broken files
        weights = 0
    return DeviceNeeds(weights, kv_least=0, kv_most=sys.maxsize)


def survey_needs(
    places: Sequence[Place], settings: Settings, cards: Mapping[str, ModelCard], building: threading.Lock
) -> None:
    """Replace the guesses, model by model: each takes some tenths of a second."""
    for place in places:
        try:
            with building:
                place.size = needs_of(place.model, settings, cards[place.queue].max_model_len)
        except Exception as error:  # loading it will tell
            logger.debug("the size of %s is not known: %s", place.queue, error)


def needs_of(model: TableModel, settings: Settings, max_model_len: int) -> DeviceNeeds:
    """Raises OSError or ValueError."""
    from worker.configuration import engine_config
    from worker.unloaded.sizes import size_of

    own = settings.model_copy(update={"model": model.settings_over(settings.model)})
    size = size_of(model.source, engine_config(own))
    longest = size.kv_per_token * max_model_len
    num_seqs = settings.model.max_num_seqs or USUAL_SEQS
    least = min(longest, max(SMALL_KV, size.weights // 2))
    return DeviceNeeds(size.weights, least, longest * num_seqs, size.workspace)
