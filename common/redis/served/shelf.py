"""Which models of a table are loaded: what each worker reports, and what operators order.

SHELF         hash: worker name -> ShelfReport as JSON, written at each change and each second
SHELF_ORDERS  + queue; list of Orders as JSON, taken by a worker of the queue
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import orjson
from redis import Redis

from common.json_bytes import json_bytes
from common.redis import keys

ModelStatus = Literal["loaded", "loading", "warm", "cold", "failed"]  # in the order of their nearness
Action = Literal["load", "unload", "pin", "unpin"]
STALE_S = 10.0  # a report older than this is of a worker that is gone
MAX_ORDERS = 1000


@dataclass(frozen=True, slots=True)
class ShelfEntry:
    """One model of the table, as a worker has it."""

    queue: str
    status: ModelStatus
    what: str = ""  # of loading: the part that is under way
    share: float = 0.0  # of loading, 0 to 1
    weights_bytes: int = 0  # on the device, measured or estimated
    kv_bytes: int = 0  # of its KV cache, while loaded
    is_pinned: bool = False
    keep_alive_s: float | None = None  # -1: never unloaded because it is idle; None: until its place is needed
    unload_at: float = 0.0  # unix seconds when it is unloaded if nothing comes; 0: never
    loaded_at: float = 0.0  # unix seconds; 0: it is not loaded
    swap_in_s: float = 0.0  # that loading takes from its present status, measured or estimated
    eta_s: float | None = None  # until it is loaded, as the policy expects; 0: it is; None: not known
    num_swapped_out: int = 0  # answers that were paused and wait for it
    why: str = ""  # why it cannot be loaded as things stand: its place is held by pinned models
    fault: str = ""  # why its last loading failed
    may_retry: bool = True  # that fault may pass by itself, such as too little memory

    @property
    def is_served(self) -> bool:
        """Its jobs are taken; else its loading has failed for good."""
        return self.status != "failed" or self.may_retry

    @property
    def memory_bytes(self) -> int:
        """That it takes of the device."""
        return self.weights_bytes + self.kv_bytes if self.status == "loaded" else 0


@dataclass(frozen=True, slots=True)
class ShelfReport:
    """The models of one worker, and the memory that they share. All sizes in bytes."""

    worker: str
    at: float  # unix seconds
    device: str
    capacity_bytes: int
    used_bytes: int
    warm_bytes: int
    warm_capacity_bytes: int
    max_loaded: int  # 0: as many as fit
    entries: tuple[ShelfEntry, ...]
    next: str = ""  # the queue that is loaded next
    why: str = ""  # the reason for what is done or awaited
    next_in_s: float | None = None
    num_swaps: int = 0
    last_swap: str = ""  # such as "a -> b in 1.4 s"


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator, or a request's keep_alive, wants of one model."""

    queue: str
    action: Action
    keep_alive_s: float | None = None
    at: float = 0.0  # unix seconds


class ShelfStore:
    """Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def publish(self, report: ShelfReport) -> None:
        self._redis.hset(keys.SHELF, report.worker, json_bytes(asdict(report)))

    def forget(self, worker: str) -> None:
        self._redis.hdel(keys.SHELF, worker)

    def reports(self) -> list[ShelfReport]:
        """Of the workers that live, the newest first."""
        now = time.time()
        found = [report_of(raw) for raw in self._redis.hvals(keys.SHELF)]
        return sorted((report for report in found if now - report.at < STALE_S), key=lambda report: -report.at)

    def order(self, order: Order) -> None:
        """Have a worker take the order; it wakes at once."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(keys.SHELF_ORDERS + order.queue, json_bytes(asdict(order)))
            pipeline.ltrim(keys.SHELF_ORDERS + order.queue, -MAX_ORDERS, -1)
            pipeline.publish(keys.CONTROL + order.queue, keys.ORDERED).execute()

    def take_orders(self, queues: Iterable[str]) -> list[Order]:
        """The orders for these queues that no worker has taken yet, the oldest first."""
        pipeline = self._redis.pipeline(transaction=True)
        for queue in queues:
            pipeline.lpop(keys.SHELF_ORDERS + queue, MAX_ORDERS)
        raw = [one for taken in pipeline.execute() for one in taken or ()]
        return sorted((Order(**known(Order, orjson.loads(one))) for one in raw), key=lambda order: order.at)


def nearest(reports: Iterable[ShelfReport]) -> dict[str, ShelfEntry]:
    """Queue -> its entry; of several workers' entries the one that is nearest to being loaded."""
    order = get_args(ModelStatus)
    found: dict[str, ShelfEntry] = {}
    for entry in (entry for report in reports for entry in report.entries):
        other = found.get(entry.queue)
        if other is None or order.index(entry.status) < order.index(other.status):
            found[entry.queue] = entry
    return found


def report_of(raw: bytes) -> ShelfReport:
    fields = known(ShelfReport, orjson.loads(raw))
    entries = tuple(ShelfEntry(**known(ShelfEntry, entry)) for entry in fields.pop("entries"))
    return ShelfReport(**fields, entries=entries)


def known(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that this version knows."""
    return {name: fields[name] for name in kind.__slots__ if name in fields}
