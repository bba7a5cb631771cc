"""Counters and histograms, kept in Redis so that one number covers all processes (docs/decisions/0006).

    METRICS + queue   hash: `name`, `name|label`; for a histogram `name:i` (bucket i, from 1) and `name:sum` (us, or
                      thousandths of a token)

The scripts count events of jobs in the step that causes them; workers and API processes add their own counts once a
second.
"""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from redis import Redis

from common.redis import keys

BOUNDS_MS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000,
)  # fmt: skip
SERVICE = "-"  # in the place of a queue, for counts that belong to none


def metrics_key(queue: str) -> str:
    return keys.METRICS + queue


def bucket_of(milliseconds: float) -> int:
    """The number of the bucket, from 1; the last holds times above every bound."""
    return next((number for number, bound in enumerate(BOUNDS_MS, 1) if milliseconds <= bound), len(BOUNDS_MS) + 1)


class Tally:
    """Counts made in this process, sent to Redis by flush(); any thread may add."""

    def __init__(self, queue: str) -> None:
        self._key = metrics_key(queue)
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def observe(self, name: str, milliseconds: float, times: int = 1) -> None:
        with self._lock:
            self._counts[f"{name}:{bucket_of(milliseconds)}"] += times
            self._counts[f"{name}:sum"] += round(milliseconds * 1000) * times

    def flush(self, redis: "Redis") -> None:
        """Send what was counted since the last flush. Raises RedisError; these counts are then lost, never doubled."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if counts:
            send(redis, self._key, counts)


def send(redis: "Redis", key: str, counts: Mapping[str, int]) -> None:
    pipeline = redis.pipeline(transaction=True)
    for name, number in counts.items():
        pipeline.hincrby(key, name, number)
    pipeline.execute()


def read(redis: "Redis", queue: str) -> dict[str, int]:
    """All counts of a queue."""
    return {name.decode(): int(value) for name, value in redis.hgetall(metrics_key(queue)).items()}
