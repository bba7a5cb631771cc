"""Which models are loaded, as the workers of a table report it."""

import time
from collections.abc import Collection, Iterable

from redis import Redis

from common.redis.directory import Directory
from common.redis.served.shelf import ShelfEntry, ShelfReport, ShelfStore, nearest

MAX_AGE_S = 0.5


class ShelfReader:
    """The newest reports, read from Redis at most every MAX_AGE_S. Every method may raise RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._store = ShelfStore(redis)
        self._reports: list[ShelfReport] = []
        self._looked = float("-inf")

    def reports(self, max_age_s: float = MAX_AGE_S) -> list[ShelfReport]:
        """Empty where workers have one model each."""
        if time.monotonic() - self._looked >= max_age_s:
            self._reports = self._store.reports()
            self._looked = time.monotonic()
        return self._reports

    def entries(self, max_age_s: float = MAX_AGE_S) -> dict[str, ShelfEntry]:
        """By queue."""
        return nearest(self.reports(max_age_s))


def all_entries(
    shelf: ShelfReader, directory: Directory, queues: Iterable[str], table: Collection[str]
) -> dict[str, ShelfEntry]:
    """An entry for each queue, read now. Workers with one model report no shelf; that of a table (`table`: its queues)
    reports a moment after it has begun to take jobs."""
    found = shelf.entries(0)
    live = {worker.get("queue") for worker in directory.workers()}
    for queue in queues:
        if queue not in found:
            is_cold = queue in table
            found[queue] = ShelfEntry(queue, "cold") if is_cold else entry_of_one(directory, queue, queue in live)
    return {queue: found[queue] for queue in queues}


def entry_of_one(directory: Directory, queue: str, is_live: bool) -> ShelfEntry:
    """Of a worker with one model, which registers when that is loaded."""
    if is_live:
        return ShelfEntry(queue, "loaded", eta_s=0.0)
    loading = directory.loading(queue)
    if "share" in loading:
        return ShelfEntry(queue, "loading", loading.get("what", ""), float(loading["share"]))
    return ShelfEntry(queue, "cold")
