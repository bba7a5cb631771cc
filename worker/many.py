"""A worker for the models of OMNI_MODELS: each has its queue from the start, and an engine while it is loaded."""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from uuid import uuid4

from redis import Redis

from common.flag import Flag
from common.model.fault import FolderFault
from common.model.source import table_fault
from common.redis.connection import connect
from common.redis.directory import Directory
from common.settings import ModelSettings, Settings, refuse
from common.shelf.table import TableModel
from common.tracing import traces_of
from common.wire import ModelCard
from worker.engine.interface import AnyEngine, NotLoaded
from worker.jobs.hang_watch import HangWatch
from worker.jobs.ledger import Ledger
from worker.jobs.omni_worker import OmniWorker
from worker.jobs.publisher import Publisher
from worker.jobs.served_model import ServedModel, retried
from worker.jobs.swaps import Swaps
from worker.kept.keep import Keep
from worker.progress import OnProgress

logger = logging.getLogger("omni.worker")


def worker_of_table(settings: Settings, redis: "Redis", hang_watch: HangWatch, keep: Keep, died_in: str) -> OmniWorker:
    """All queues take jobs when this returns; no engine is loaded yet. `died_in`: see common/process/child.py."""
    from worker.shelf.build import shelf_of

    cards, faults = cards_of(settings, redis)
    settings = settings.model_copy(update={"models": tuple(model for model in settings.models if model.queue in cards)})
    wake, landed = Flag(), Event()

    def has_landed() -> None:
        landed.set()
        wake.set()

    opener = EngineOpener(settings, hang_watch, keep, faults)
    shelf = shelf_of(settings, cards, keep, opener.kept_name, opener.open, has_landed, faults)
    kind, _, rest = died_in.partition(" ")
    times, _, queue = rest.partition(" ")
    if kind == "load" and queue in cards:
        logger.error("the worker before this one died while it loaded %s; deaths in a row: %s", queue, times)
        shelf.died_loading(queue, int(times))
    models = served_models(settings, redis, cards, wake, hang_watch)
    for model in models:
        model.fault = faults.get(model.queue, "")
    hang_watch.tell_fences([model.ledger.fence for model in models])
    logger.info("Protocol OMNI serves %s, each when it is asked for", ", ".join(cards))
    unserved = {queue: fault for queue, fault in faults.items() if queue not in cards}
    swaps = Swaps(shelf, {model.queue: model for model in models}, landed, unserved)
    return OmniWorker(models, wake, hang_watch, swaps)


def cards_of(settings: Settings, redis: "Redis") -> tuple[dict[str, ModelCard], dict[str, str]]:
    """By queue the cards, and the faults of models whose files are broken; the others are served.

    A broken model keeps the card of a worker before this one, so that its jobs are told and an order can load it once
    it is whole again. Without such a card it has no queue.
    """
    from worker.models.load_fault import reason

    cards, faults = {}, {}
    for model in settings.models:
        own, before = model.settings_over(settings.model), card_before(model.queue, redis)
        try:
            if fault := table_fault(model):
                raise FolderFault(fault)
            cards[model.queue] = card_of(own, before)
        except Exception as error:  # files of any kind, read by libraries of any kind
            if before is not None and before.names == own.names:
                cards[model.queue] = before
            then = f"run omni models load {model.queue}" if model.queue in cards else "restart the worker"
            faults[model.queue] = f"{reason(error)} Correct it, then {then}."
            logger.error("%s is not served: %s", model.queue, faults[model.queue])
    if len(faults) == len(settings.models):
        first, fault = next(iter(faults.items()))
        refuse(f"{settings.shelf.table}: none of its models can be served; [[model]] {first}: {fault}")
    return cards, faults


def card_before(queue: str, redis: "Redis") -> ModelCard | None:
    """That a worker before this one has published."""
    found: list[ModelCard | None] = []
    retried(lambda: found.append(Directory(redis).card(queue)))
    return found[-1]


def card_of(model: ModelSettings, before: ModelCard | None) -> ModelCard:
    """The one before if it still holds: reading a tokenizer takes long."""
    from worker.unloaded.cards import cold_card, is_current

    return before if before is not None and is_current(before, model) else cold_card(model)


def served_models(
    settings: Settings, redis: "Redis", cards: dict[str, ModelCard], wake: Flag, hang_watch: HangWatch
) -> list[ServedModel]:
    """Each with its card published and its fence taken; the leases begin now."""
    worker_name, traces = f"omni-{uuid4().hex[:12]}", traces_of(settings, "worker")
    adapters = {model.queue: dict(model.adapters) for model in settings.models}
    ledgers = [Ledger(redis, queue, worker_name) for queue in cards]
    for ledger in ledgers:
        retried(partial(ledger.publish_card, cards[ledger.queue]))
    models = []
    for ledger in ledgers:
        retried(ledger.register)
        publisher = Publisher(connect(settings.redis.url, retries=0), ledger.fence)
        engine = NotLoaded(cards[ledger.queue])
        given = adapters[ledger.queue]
        model = ServedModel(ledger, engine, publisher, wake, hang_watch, traces, given)
        revisions = revisions_of(given)
        retried(partial(model.adapters.announce, {name: given[name] for name in revisions}, revisions))
        models.append(model)
    return models


def revisions_of(given: Mapping[str, str]) -> dict[str, str]:
    """Of the adapters whose files are there; loading the model names the others."""
    from worker.models.adapters.folder import revision_of

    revisions = {}
    for name, path in given.items():
        with suppress(OSError):
            revisions[name] = revision_of(Path(path))
    return revisions


class EngineOpener:
    """Opens the engines of the table's models, in the shelf's thread."""

    def __init__(
        self, settings: Settings, hang_watch: HangWatch, keep: Keep, broken: Collection[str] = frozenset()
    ) -> None:
        """`broken`: queues of models whose files were not whole at the start: the name under which they would be kept
        is not known, so they are not."""
        self._settings = settings
        self._broken = broken
        self._hang_watch = hang_watch
        self._keep = keep

    def kept_name(self, model: TableModel) -> str:
        """Of its weights in memory that outlives this process; empty if they are not kept there."""
        if model.queue in self._broken:
            return ""
        from worker.configuration import engine_config
        from worker.models.kept.key import kept_name

        return kept_name(model.source, engine_config(self._own(model))) or ""

    def open(self, model: TableModel, on_progress: OnProgress, kv_bytes: int | None) -> AnyEngine:
        """Still to be warmed up. `kv_bytes`: of keys and values. Raises whatever loading raises."""
        from worker.models.download import downloaded

        if fault := table_fault(model):
            raise FolderFault(fault)
        keep = Keep.none() if model.queue in self._broken else self._keep
        self._hang_watch.tell_loading(
            model.queue
        )  # until Swaps hears of the outcome: warming up may end this process, too
        return open_for_its_task(self._own(model), keep, downloaded(model.source, on_progress), kv_bytes)

    def _own(self, model: TableModel) -> Settings:
        """The settings as if this were the only model."""
        return self._settings.model_copy(update={"model": model.settings_over(self._settings.model)})


def open_for_its_task(settings: Settings, keep: Keep, on_progress: OnProgress, kv_bytes: int | None) -> AnyEngine:
    """`settings`: of one model of the table."""
    from worker.configuration import engine_config
    from worker.embedding.embedder import Embedder
    from worker.embedding.encoder_model import load_encoder
    from worker.opening import open_engine
    from worker.unloaded.cards import task_of

    model = settings.model
    config = replace(engine_config(settings), kv_memory_bytes=kv_bytes)
    if task_of(model.source) != "generate":
        return Embedder(load_encoder(model.source, model.names, config, on_progress))
    may_sleep = settings.shelf.warm_memory != 0
    return open_engine(model.source, model.names, config, on_progress, keep, may_sleep=may_sleep)
