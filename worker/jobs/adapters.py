"""Keeps the engine's adapters those that Redis lists: loads new ones and drops others, between steps.

    OMNI_ADAPTERS, POST /v1/load_lora_adapter -> AdapterStore -> every worker of the base

A job is begun with the very adapter that it was accepted for, or it fails.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from redis.exceptions import RedisError

from common.errors import AdapterUnloaded, ModelChanged, OmniError
from common.redis.connection import is_passing
from common.redis.served.adapters import AdapterRecord, AdapterStore, full_revision
from common.wire import Failed
from worker.engine.interface import AnyEngine, NotLoaded
from worker.jobs.heartbeat import Inbox
from worker.jobs.ledger import Claim

logger = logging.getLogger("omni.worker")

RETRY_S = 0.1


class ServedAdapters:
    """One thread calls it; report() may be called from others."""

    def __init__(self, store: AdapterStore, queue: str, engine: AnyEngine, inbox: Inbox) -> None:
        self._store = store
        self._queue = queue
        self._inbox = inbox
        self._report = ""
        self.attach(engine)

    def attach(self, engine: AnyEngine) -> None:
        """From now on these adapters are this engine's."""
        self.version = -1  # that the engine follows
        self._engine = engine
        self._adapters = engine.adapters
        self._numbers: dict[str, int] = {}  # of the loaded ones
        self._faults: dict[str, str] = {}

    def give(self, given: Mapping[str, str]) -> None:
        """Publish those of OMNI_ADAPTERS, name -> folder, which the engine has loaded; then load the others."""
        self.announce(given, self._adapters.revisions)
        self.follow()

    def announce(self, given: Mapping[str, str], revisions: Mapping[str, str]) -> None:
        """Publish given adapters, which are loaded with their base. `revisions`: of their folders."""
        known = self._store.all()
        records = {}
        for name, path in given.items():
            revision = revisions[name]
            number = int(revision, 16)  # the same for the same content, so that jobs go on after a restart
            before = known.get(name)
            created = before.created if before is not None and before.number == number else int(time.time())
            records[name] = AdapterRecord(name, self._queue, path, number, created, revision, is_given=True)
            self._numbers[name] = number
        self._store.give(self._queue, records)

    @property
    def _is_attached(self) -> bool:
        """False while the model is not loaded: the list is followed when it is."""
        return not isinstance(self._engine, NotLoaded)

    def report(self) -> str:
        """For the worker's record in Redis: JSON of the version that it follows, and revisions and faults by name.

        Wakes the worker's loop if the list has changed.
        """
        if self._is_attached and self._store.version() != self.version:
            self._inbox.adapt()
        return self._report

    def follow_if_changed(self) -> None:
        if self._is_attached and self._inbox.take_adapt():
            self.follow()

    def follow(self) -> None:
        """Load and unload what has changed. Jobs of an unloaded adapter end first, in the worker's next round."""
        version = self._store.version()
        wanted = {name: record for name, record in self._store.all().items() if record.queue == self._queue}
        is_done = self._drop_others(wanted)
        self._faults = {name: fault for name, fault in self._faults.items() if name in wanted}
        for name, record in wanted.items():
            if name not in self._adapters.revisions:
                self._load(record)
        if is_done:
            self.version = version
        else:
            self._inbox.adapt()
        found = {"version": self.version, "revisions": self._adapters.revisions, "faults": self._faults}
        self._report = json.dumps(found)

    def check(self, claim: Claim) -> None:
        """Raises ModelChanged or AdapterUnloaded unless the engine has what the job was accepted for."""
        name = claim.request.adapter
        if name and not self._has(claim, name):
            self._follow_now()  # it may be newer than the last list
        if name and name not in self._adapters.revisions:
            raise AdapterUnloaded(self._faults.get(name, unloaded(name)))
        if not self._has(claim, name):
            raise ModelChanged("The model was changed while this request waited; send it again.")

    def _follow_now(self) -> None:
        """The claimed job waits while Redis is away, as all do then."""
        while True:
            try:
                return self.follow()
            except RedisError as error:
                if not is_passing(error):
                    raise
                time.sleep(RETRY_S)

    def _has(self, claim: Claim, name: str) -> bool:
        own = self._adapters.revisions.get(name, "?") if name else ""
        return claim.revision == full_revision(self._engine.card.revision, own)

    def _drop_others(self, wanted: Mapping[str, AdapterRecord]) -> bool:
        """True if none is left that is not wanted."""
        is_done = True
        for name in list(self._adapters.revisions):
            if name in wanted and wanted[name].number == self._numbers.get(name):
                continue
            running = self._adapters.requests_of(name)
            for request_id in running:
                self._inbox.cancel(request_id, Failed(AdapterUnloaded.code, unloaded(name)))
            if running:
                is_done = False
            else:
                self._adapters.unload(name)
                logger.info("unloaded the adapter %s", name)
        return is_done

    def _load(self, record: AdapterRecord) -> None:
        started = time.perf_counter()
        try:
            self._adapters.load(record.name, record.path)
        except OmniError as error:
            if self._faults.get(record.name) != error.message:
                logger.error("%s", error.message)
            self._faults[record.name] = error.message
            return
        revision = self._adapters.revisions[record.name]
        if record.is_ready and revision != record.revision:
            logger.warning("the adapter %s has other weights than before; requests from before fail", record.name)
            self._store.set_ready(replace(record, revision=revision))
        self._faults.pop(record.name, None)
        self._numbers[record.name] = record.number
        logger.info("loaded the adapter %s in %.1f s", record.name, time.perf_counter() - started)


def unloaded(name: str) -> str:
    return f"The adapter {name!r} was unloaded before this request was finished."
