"""Opens an engine if the memory that is left holds it."""

from collections.abc import Callable, Sequence

from worker.engine.interface import AnyEngine
from worker.shelf.memory import DeviceMemory
from worker.shelf.opening import NoRoom
from worker.shelf.place import Place
from worker.shelf.warm.models import WarmModels


def opened_in_room(
    place: Place,
    places: Sequence[Place],
    memory: DeviceMemory,
    warm: WarmModels,
    kv_bytes: int | None,
    open_engine: Callable[[], AnyEngine],
) -> AnyEngine:
    """The engine of `place` beside those of the loaded ones. Raises NoRoom, and what opening raises."""
    is_mapped = place.is_kept and memory.holds_kept
    needed = place.size.kv_least + (place.mapped_bytes if is_mapped else place.fixed_bytes)
    beside = sum(other.mapped_bytes for other in places if other.is_loaded)
    if memory.holds_kept and needed > (left := memory.left(beside)):
        warm.trim(places, needed - left)
    check_room(needed, memory.left(beside))
    check_mapped(place.mapped_bytes, beside, memory.most_mapped())
    engine = warm.opened(place.kept_name, kv_bytes, open_engine)
    try:
        check_mapped(engine.mapped_bytes, beside, memory.most_mapped())  # not known before the first time
    except NoRoom:
        warm.leave(place.kept_name, engine)()
        raise
    return engine


def check_room(needed: int, left: int) -> None:
    """Raises NoRoom."""
    if needed > left:
        raise NoRoom(
            f"it needs {gib(needed)} GiB with the least keys and values, and {gib(left)} GiB of memory are left. "
            "End other programs, choose a smaller model, or set its max_model_len."
        )


def check_mapped(needed: int, beside: int, most: int) -> None:
    """Raises NoRoom where the experts of several models are more than host memory, and would be read from a disk."""
    if needed and beside and needed + beside > most:
        raise NoRoom(
            f"its experts take {gib(needed)} GiB of host memory, those of other models {gib(beside)}, and "
            f"{gib(most)} GiB is the most for both. Set OMNI_QUANTIZE=int4, choose a smaller model, or add memory."
        )


def gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"
