"""The jobs of lines: cancelled when their batch ends early, forgotten when their answers are in SQL."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from redis import Redis

from common.records.batch_work import OpenBatch
from common.redis import keys
from common.redis.store import Store
from common.wire import job_id_of
from dispatcher.batches.client import idempotency_key

PAGE = 1000
MANY_JOBS = "/v1/completions"  # the endpoint whose answers may be made of several jobs


class LineJobs:
    """Used by the batch loop's thread; `recorded` also by the recorder's. Methods raise RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._store = Store(redis)
        self._ended: deque[tuple[float, str, OpenBatch]] = deque()  # recorded at (ms of Redis's clock), job, its batch

    def cancel(self, batch: OpenBatch, numbers: Sequence[int], message: str) -> None:
        """End the jobs that wait or run for these lines."""
        for at in range(0, len(numbers), PAGE):
            with self._redis.pipeline(transaction=False) as pipeline:
                for number in numbers[at : at + PAGE]:
                    digest = hashlib.sha256(idempotency_key(batch.id, number).encode()).hexdigest()
                    pipeline.hget(f"{keys.IDEM}{batch.owner}:{digest}", "id")
                found = pipeline.execute()
            for first in filter(None, found):
                for job_id in jobs_of(batch, first.decode()):
                    if not self._store.cancel(job_id, batch.owner, message=message):
                        break

    def recorded(self, batch: OpenBatch, job_ids: Sequence[str]) -> None:
        """These jobs' answers are in SQL: forget() may delete them once the outbox has passed their ends."""
        seconds, microseconds = self._redis.time()
        now = seconds * 1000 + microseconds / 1000
        self._ended.extend((now, job_id, batch) for job_id in job_ids if job_id)

    def forget(self) -> set[str]:
        """Delete recorded jobs, so that a large batch does not fill Redis's memory and its owner's share of it.

        Returns the owners who have more room now.
        """
        oldest = self._redis.xrange(keys.OUTBOX, count=1)
        until = int(oldest[0][0].partition(b"-")[0]) if oldest else float("inf")
        owners = set()
        while self._ended and self._ended[0][0] < until:
            _, job_id, batch = self._ended.popleft()
            owners.add(batch.owner)
            for each in jobs_of(batch, job_id):
                if not self._redis.exists(keys.job_key(each)):
                    break
                self._store.forget(each)
        return owners


def jobs_of(batch: OpenBatch, first: str) -> Iterator[str]:
    """The ids of a line's jobs. Where there may be several they have no end: the caller stops at one that is not."""
    return (job_id_of(first, number) for number in (count() if batch.endpoint == MANY_JOBS else (0,)))
