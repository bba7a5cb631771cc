"""An engine that leaves a GPU for a while: its weights wait in host memory, its keys and values are dropped."""

import logging

from worker.drafting.drafter import Drafter
from worker.engine.memory.sizing import KVSizing
from worker.gpu_memory.arena import Arena
from worker.gpu_memory.walk import objects_in
from worker.models.loader import LoadedModel
from worker.runners.base import ModelRunner, Runner
from worker.state.kv_cache import KVCache

logger = logging.getLogger(__name__)


class Sleeping:
    """Between steps of an engine without work."""

    def __init__(self, arena: Arena | None, runner: Runner, drafter: Drafter, sizing: KVSizing) -> None:
        self.is_warm = False  # what warm_up() makes is there
        self._arena = arena
        parts = list(objects_in((runner, drafter))) if arena is not None else []
        self._caches = [part for part in parts if isinstance(part, KVCache)]
        self._runners = [part for part in parts if isinstance(part, ModelRunner)]
        self._sizing = sizing

    def sleep(self) -> bool:
        """See AnySleeping."""
        arena = self._arena
        if arena is None or not arena.is_whole:
            return False
        for cache in self._caches:
            cache.forget()
        try:
            arena.sleep()
        except (OSError, MemoryError) as reason:
            logger.warning("host memory has no room for the weights of a model that leaves: %s", reason)
            return False
        return True

    def wake(self, kv_bytes: int | None) -> None:
        """See AnySleeping."""
        assert self._arena is not None
        if kv_bytes is not None:
            self._sizing.resize(kv_bytes)
        self._arena.wake()
        if self._arena.keeps_addresses:
            return
        self.is_warm = False
        for runner in self._runners:
            if runner.recordings is not None:
                runner.recordings.forget()

    def drop_copy(self) -> None:
        """See AnySleeping."""
        if self._arena is not None:
            self._arena.drop_copy()

    @property
    def warm_bytes(self) -> int:
        """See AnySleeping."""
        return self._arena.num_bytes if self._arena is not None and self._arena.is_whole else 0

    @property
    def copy_bytes(self) -> int:
        """See AnySleeping."""
        return self._arena.host_bytes if self._arena is not None else 0

    @property
    def card_bytes(self) -> int:
        """Of the card's memory, beside what torch's allocator counts."""
        return self._arena.card_bytes if self._arena is not None else 0

    def close(self) -> None:
        if self._arena is not None:
            self._arena.close()


def adopt_all(loaded: LoadedModel, *parts: object) -> None:
    """The weights of these parts are ones that leave with the model."""
    if loaded.arena is not None:
        loaded.arena.adopt(parts, KVCache)
