"""Weights in host memory of models that are not loaded, as far as OMNI_WARM_MEMORY allows."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from worker.engine.interface import AnyEngine
from worker.shelf.place import Place
from worker.shelf.warm.sleepers import Sleepers

WEIGHTS, KV = "weights:", "kv:"  # begin the names of what is kept of a model


class AnyKeep(Protocol):
    """Of worker/kept/keep.py, what the shelf asks. Sleepers are asked the same."""

    def sizes(self) -> dict[str, int]:
        """Bytes of all that is kept, by name."""

    def drop(self, name: str) -> None:
        """Mappings of it stay."""


class WarmModels:
    """The weights that are kept; those that left first are dropped first."""

    def __init__(self, keep: AnyKeep, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._keep = keep

    def drop_strangers(self, places: Sequence[Place]) -> None:
        """What is kept of models that the table no longer has, or whose files have changed."""
        ours = {name for place in places for name in (place.kept_name, kv_name(place))}
        for name in self._keep.sizes():
            if name.startswith((WEIGHTS, KV)) and name not in ours:
                self._keep.drop(name)
        self.look(places)

    def look(self, places: Iterable[Place]) -> None:
        """Note which models are kept."""
        sizes = self._keep.sizes()
        for place in places:
            place.kept_bytes = sizes.get(place.kept_name, 0)

    def trim(self, places: Sequence[Place], wanted: int = 0) -> None:
        """Drop what is kept until the rest is within the bound, and `wanted` bytes more are free.

        Keys and values that a dead worker left of a model that is not loaded go before all weights.
        """
        sizes = self._keep.sizes()
        away = [place for place in places if not place.is_loaded and not place.is_loading]
        away.sort(key=lambda place: place.left_at)
        names = [*(kv_name(place) for place in away), *(place.kept_name for place in unloaded(places))]
        num_bytes = sum(sizes.get(name, 0) for name in names)
        for name in names:
            if num_bytes <= self.most_bytes and wanted <= 0:
                break
            if name in sizes:
                self._keep.drop(name)
                num_bytes -= sizes[name]
                wanted -= sizes[name]
        self.look(places)

    def leave(self, name: str, engine: AnyEngine | None) -> Callable[[], None]:
        """What lets an engine leave the device, to which it may return from a GPU's host memory."""
        if engine is None:
            return lambda: None
        return partial(self._keep.part, name, engine) if isinstance(self._keep, Sleepers) else engine.close

    def opened(self, name: str, kv_bytes: int | None, open_engine: Callable[[], AnyEngine]) -> AnyEngine:
        """The engine that has left, or a new one, still to be warmed up. Raises torch.OutOfMemoryError among others.

        The thread that opens and closes engines calls it, and what leave() returns.
        """
        if not isinstance(self._keep, Sleepers):
            return open_engine()
        if (engine := self._keep.wake(name, kv_bytes)) is None:
            engine = open_engine()
            self._keep.opened(name, engine)
        return engine

    @staticmethod
    def num_bytes(places: Sequence[Place]) -> int:
        return sum(place.kept_bytes for place in unloaded(places))


def unloaded(places: Sequence[Place]) -> list[Place]:
    """One for each kept weights that no loaded model uses: those of the model that left first are first.

    Two models of the table may be the same files with the same settings.
    """
    used = {place.kept_name for place in places if place.is_loaded or place.is_loading}
    latest = sorted((place for place in places if place.kept_name not in used), key=lambda place: place.left_at)
    return list({place.kept_name: place for place in latest}.values())


def kv_name(place: Place) -> str:
    """Of the keys and values of a model: see cache_to_serve() in worker/runners."""
    return f"{KV}{place.kept_name.removeprefix(WEIGHTS)}:{place.queue}"
