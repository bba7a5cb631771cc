"""The jobs of lines: cancelled when their batch ends early, forgotten when their answers are in SQL."""

import hashlib
from collections import deque
from collections.abc import Sequence
from itertools import count

from redis import Redis

from common.records.batch_work import OpenBatch
from common.redis import keys
from common.redis.store import Store
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
            for job_id in filter(None, found):
                self._store.cancel(job_id.decode(), batch.owner, message=message)

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
            self._store.forget(job_id)
            owners.add(batch.owner)
            for number in count(1) if batch.endpoint == MANY_JOBS else ():
                if not self._redis.exists(keys.job_key(other := f"{job_id}-{number}")):
                    break
                self._store.forget(other)
        return owners
