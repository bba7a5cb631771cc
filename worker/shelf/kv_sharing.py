"""Gives each loaded model its share of the memory for keys and values, whenever models come or go."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from worker.engine.interface import KVDemand
from worker.shelf.memory import DeviceMemory
from worker.shelf.place import Place

SPARE = 1.25  # of the recent peak
PRESSED = 2.0  # of the recent peak, where sequences were preempted
LEAST_CHANGE = 0.05  # of a model's share: smaller changes are not worth the blocks that move


def share_kv(
    places: Sequence[Place], capacity: int, memory: DeviceMemory, most_loaded: int | None, comes: Place | None = None
) -> int:
    """Resize the caches of loaded models; returns the bytes for the model that comes.

    Where caches cannot be resized later it leaves room for the models that may come beside it.
    """
    loaded = [place for place in places if place.is_loaded]
    for place in loaded:
        note_demand(place)
    shared = [*loaded, *([comes] if comes is not None else [])]
    if comes is not None and not memory.is_elastic:
        shared = with_others(shared, places, capacity, most_loaded or len(places))
    demands = {place.queue: capped(place, demand_of(place), memory) for place in shared}
    shares = share_out(capacity - sum(place.fixed_bytes for place in shared), demands)
    engines = [(shares[place.queue], place.engine) for place in loaded if place.engine is not None]
    for share, engine in sorted(engines, key=lambda pair: pair[0] - pair[1].kv_bytes):  # those that shrink go first
        if is_worth_it(engine.kv_bytes, share):
            engine.resize_kv(share)
    return shares[comes.queue] if comes is not None else 0


def with_others(shared: Sequence[Place], places: Sequence[Place], capacity: int, most_loaded: int) -> list[Place]:
    """And the models, in the table's order, that fit beside these."""
    found = list(shared)
    for place in places:
        needed = place.least_bytes + sum(other.least_bytes for other in found)
        if place not in found and len(found) < most_loaded and needed <= capacity:
            found.append(place)
    return found


def demand_of(place: Place) -> KVDemand:
    return place.demand if place.is_loaded else KVDemand(place.size.kv_least, place.size.kv_most, place.size.kv_least)


def note_demand(place: Place) -> None:
    """A peak that was higher before counts half as much each time."""
    assert place.engine is not None
    new = place.engine.take_kv_demand()
    place.demand = replace(new, peak_bytes=max(new.peak_bytes, place.demand.peak_bytes // 2))


def capped(place: Place, demand: KVDemand, memory: DeviceMemory) -> KVDemand:
    most = max(demand.least_bytes, min(demand.most_bytes, memory.most_kv(place.fixed_bytes)))
    return replace(demand, most_bytes=most)


def is_worth_it(old: int, new: int) -> bool:
    return new != old and abs(new - old) >= LEAST_CHANGE * old


def wanted(demand: KVDemand) -> int:
    """What a model would use, between its least and its most."""
    need = int(demand.peak_bytes * (PRESSED if demand.num_preemptions else SPARE))
    return min(max(need, demand.least_bytes), demand.most_bytes)


def share_out(total: int, demands: Mapping[str, KVDemand]) -> dict[str, int]:
    """Bytes for each model: its least first, then what it would use, then equal parts of the rest, up to its most.

    Where not even the least fits, each gets its least: the caller loads no more than fits.
    """
    shares = {queue: demand.least_bytes for queue, demand in demands.items()}
    for goal in ({queue: wanted(demand) for queue, demand in demands.items()},
                 {queue: demand.most_bytes for queue, demand in demands.items()}):  # fmt: skip
        raise_to(goal, shares, total)
    return shares


def raise_to(goal: Mapping[str, int], shares: dict[str, int], total: int) -> None:
    """Raise all shares at the same pace towards their goals, as far as `total` reaches."""
    while (left := total - sum(shares.values())) > 0:
        short = [queue for queue in shares if shares[queue] < goal[queue]]
        part = left // max(len(short), 1)
        if not short or part == 0:
            return
        for queue in short:
            shares[queue] += min(part, goal[queue] - shares[queue])
