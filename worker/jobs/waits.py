"""What waits in the queues of all models, for the policy that chooses which are loaded."""

from collections.abc import Sequence
from typing import Any

from redis import Redis

from common.redis.script import Scripts
from worker.shelf.view import Waiting


class Waits:
    """Asks for all queues at once: one script, however many jobs wait."""

    def __init__(self, redis: "Redis") -> None:
        self._scripts = Scripts(redis)

    def of(self, queues: Sequence[str]) -> dict[str, Waiting]:
        """What waits, of each queue in which something does. Raises redis.exceptions.RedisError."""
        found = self._scripts.run("waits", *queues)
        return {queue: waiting_of(*values) for queue, values in zip(queues, found, strict=True) if values}


def waiting_of(*values: Any) -> Waiting:
    jobs, keys, tier, class_, has_new, oldest, oldest_flex, deadline, flex_deadline = values
    return Waiting(
        jobs=jobs,
        has_new=bool(has_new),
        keys=float(keys),
        tier=tier.decode(),
        class_=class_,
        oldest_s=seconds(oldest),
        oldest_flex_s=seconds(oldest_flex),
        deadline_s=seconds(deadline),
        flex_deadline_s=seconds(flex_deadline),
    )


def seconds(ms: int) -> float | None:
    """A script's milliseconds; -1 for none."""
    return None if ms < 0 else ms / 1000
