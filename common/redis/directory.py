"""The served models, their queues and their workers, as the workers wrote them to Redis."""

from redis import Redis

from common.redis import keys
from common.wire import ModelCard
from common.wire_codec import decode_card

MAX_SECONDS_PER_PLACE = 60.0


class Directory:
    """Every method reads Redis and may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def queue_of(self, model: str) -> tuple[str | None, str]:
        """The queue that serves this model id and the revision of its weights; (None, "") when no worker serves it."""
        pipeline = self._redis.pipeline(transaction=False)
        queues, revisions = pipeline.hgetall(keys.QUEUES).hgetall(keys.REVISIONS).execute()
        queue = queues.get(model.encode())
        return (None, "") if queue is None else (queue.decode(), revisions.get(queue, b"").decode())

    def models(self) -> dict[str, str]:
        """Served id -> queue."""
        return _decoded(self._redis.hgetall(keys.QUEUES))

    def card(self, queue: str) -> ModelCard | None:
        """The model's card, or None before its worker has loaded once."""
        raw = self._redis.get(keys.card_key(queue))
        return decode_card(raw) if raw else None

    def fences(self) -> list[str]:
        """The fences of the live workers, the oldest first."""
        return [fence.decode() for fence in self._redis.zrange(keys.WORKERS, 0, -1)]

    def workers(self) -> list[dict[str, str]]:
        """The reports of the live workers: fence, queue, state, progress, memory, rates, uptime."""
        found = []
        for fence in self.fences():
            if fields := self._redis.hgetall(keys.worker_key(fence)):
                found.append({"fence": fence} | _decoded(fields))
        return found

    def loading(self, queue: str) -> dict[str, str]:
        """The progress of a worker that is loading: `what` and `share` (0 to 1); empty when none is loading."""
        return _decoded(self._redis.hgetall(keys.LOADING + queue))

    def num_waiting(self, queue: str) -> int:
        return int(self._redis.zcard(keys.waiting_key(queue)))

    def seconds_per_place(self, queue: str) -> float:
        """Seconds until the queue moves by one, from the workers' measured rates; 1 s when none is known."""
        rate = sum(float(worker.get("jobs_per_s", 0)) for worker in self.workers() if worker.get("queue") == queue)
        return min(MAX_SECONDS_PER_PLACE, 1 / rate) if rate > 0 else 1.0


def _decoded(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
