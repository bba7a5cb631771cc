"""Engines that have left a GPU and can return to it, as far as OMNI_WARM_MEMORY allows."""

import logging
import threading
from dataclasses import dataclass

from worker.engine.interface import AnyEngine, AnySleeping

logger = logging.getLogger("omni.worker")


@dataclass(frozen=True, slots=True)
class Sleeper:
    """An engine that can sleep."""

    engine: AnyEngine
    sleeping: AnySleeping


class Sleepers:
    """Each by a name. opened(), part() and wake() are called by the thread that opens and closes engines."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._asleep: dict[str, Sleeper] = {}  # in the order in which they left
        self._awake: dict[str, Sleeper] = {}
        self._dropped: list[Sleeper] = []
        self._lock = threading.Lock()  # others ask meanwhile

    def sizes(self) -> dict[str, int]:
        """Bytes of host memory that each takes while it sleeps, those included that are awake now."""
        with self._lock:
            return {name: each.sleeping.warm_bytes for name, each in (self._awake | self._asleep).items()}

    def drop(self, name: str) -> None:
        """One that sleeps is closed at the next swap: freeing its memory takes longer than a step."""
        with self._lock:
            if (sleeper := self._asleep.pop(name, None)) is not None:
                self._dropped.append(sleeper)

    def opened(self, name: str, engine: AnyEngine) -> None:
        """It is awake."""
        sleeping = engine.sleeping
        if sleeping is not None and sleeping.warm_bytes:
            with self._lock:
                self._awake[name] = Sleeper(engine, sleeping)

    def part(self, name: str, engine: AnyEngine) -> None:
        """Let it sleep if it can and memory allows, else close it."""
        with self._lock:
            sleeper = self._awake.pop(name, None)
        if sleeper is None or sleeper.engine is not engine or not self._falls_asleep(name, sleeper.sleeping):
            engine.close()
            return
        with self._lock:
            self._asleep[name] = sleeper

    def wake(self, name: str, kv_bytes: int | None) -> AnyEngine | None:
        """It is still to be warmed up; None if there is none. Raises torch.OutOfMemoryError, and it sleeps on then."""
        from worker.gpu_memory.arena import LostWeights

        self._bury()
        with self._lock:
            sleeper = self._asleep.get(name)
        if sleeper is None:
            return None
        try:
            sleeper.sleeping.wake(kv_bytes)
        except LostWeights as error:
            logger.error("%s is loaded from its files: %s", model_of(name), error)
            self.drop(name)
            self._bury()
            return None
        with self._lock:
            del self._asleep[name]
            self._awake[name] = sleeper
        return sleeper.engine

    def _falls_asleep(self, name: str, sleeping: AnySleeping) -> bool:
        try:
            return self._make_room(sleeping.warm_bytes) and sleeping.sleep()
        except RuntimeError as error:
            logger.warning("%s leaves, and will be loaded from its files: %s", model_of(name), error)
            return False

    def _make_room(self, wanted: int) -> bool:
        """For a copy of so many bytes. Copies of engines that are awake go first: they can be made again."""
        self._bury()
        if wanted > self.most_bytes:
            return False
        for sleeper in self._awake.values():
            if self._taken() + wanted > self.most_bytes:
                sleeper.sleeping.drop_copy()
        for name in list(self._asleep):
            if self._taken() + wanted > self.most_bytes:
                self.drop(name)
                self._bury()
        return True

    def _taken(self) -> int:
        return sum(each.sleeping.copy_bytes for each in (*self._awake.values(), *self._asleep.values()))

    def _bury(self) -> None:
        while self._dropped:
            self._dropped.pop().engine.close()


def model_of(name: str) -> str:
    """The model whose weights have this name."""
    return name.partition(":")[2]
