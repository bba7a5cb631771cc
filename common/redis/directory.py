"""The served models, their queues and their workers, as the workers wrote them to Redis."""

from collections.abc import Collection

from redis import Redis

from common.redis import keys
from common.wire import ModelCard, Tier
from common.wire_codec import decode_card


class Directory:
    """Every method reads Redis and may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def queue_of(self, model: str) -> tuple[str | None, str]:
        """The queue that serves this model id and the version of its card; (None, "") when no worker serves it."""
        pipeline = self._redis.pipeline(transaction=False)
        queues, versions = pipeline.hgetall(keys.QUEUES).hgetall(keys.CARD_VERSIONS).execute()
        queue = queues.get(model.encode())
        return (None, "") if queue is None else (queue.decode(), versions.get(queue, b"").decode())

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

    def num_waiting_in(self, queue: str, tier: Tier) -> int:
        """Jobs of one tier in the queue, by the classes around the tier's base."""
        least, most = ((keys.BASES[tier] + step) * keys.CLASS_STEP for step in (-500, 500))
        return int(self._redis.zcount(keys.waiting_key(queue), least, f"({most}"))

    def stray_jobs(self, ours: Collection[str]) -> dict[str, int]:
        """How many jobs wait in each queue that is not among ours and that no live worker serves."""
        waiting = {}
        for queue in sorted({*self.models().values()} - self._served(ours)):
            names = (keys.waiting_key(queue), keys.SUSPECTS + queue, keys.LATER + queue)
            waiting[queue] = sum(int(self._redis.zcard(name)) for name in names)
        return {queue: num for queue, num in waiting.items() if num}

    def watched(self, ours: Collection[str]) -> set[str]:
        """Our queues, those of live workers and those with jobs: not that of a model that was renamed or exchanged."""
        return {*self._served(ours), *self.stray_jobs(ours)}

    def _served(self, ours: Collection[str]) -> set[str]:
        return {*ours, *(worker["queue"] for worker in self.workers())}

    def num_running_in(self, queue: str, tier: Tier) -> int:
        """Sequences of one tier that workers run."""
        return sum(map(int, self._redis.hgetall(keys.PLACES[tier] + queue).values()))


def _decoded(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
