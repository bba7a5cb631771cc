"""What Redis may use of memory, and whether it would delete what we keep when that is full."""

from dataclasses import dataclass

from redis import Redis
from redis.exceptions import NoPermissionError

NOEVICTION = "noeviction"
NEARLY_FULL = (
    "Redis is nearly out of memory; running jobs go on, new ones are refused until it has room: earlier results expire "
    "by themselves (OMNI_RESULT_TTL), and OMNI_MAX_MEMORY (maxmemory) can be raised."
)


def evicts(policy: str) -> str:
    """The sentence about a policy that is not ours."""
    return f"Redis has maxmemory-policy {policy}, which would delete jobs; set it to {NOEVICTION}."


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """`limit` 0: none."""

    used: int
    limit: int
    policy: str

    @property
    def free_ratio(self) -> float:
        return 1.0 - self.used / self.limit if self.limit else 1.0

    @property
    def fault(self) -> str:
        """Why no job is safe here; empty when all are."""
        return "" if self.policy == NOEVICTION else evicts(self.policy)


def memory_of(redis: "Redis") -> RedisMemory:
    """Where INFO is not allowed nothing can be known, and nothing is wrong. Raises RedisError."""
    try:
        info = redis.info("memory")
    except NoPermissionError:
        return RedisMemory(0, 0, NOEVICTION)
    return RedisMemory(
        int(info["used_memory"]), int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", NOEVICTION))
    )
