"""Checks of the Redis server: whether it answers, its memory and eviction policy, who else can reach it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from common.addresses import LOOPBACK
from common.redis.connection import is_passing

NOEVICTION = "noeviction"
AGAIN_S = 30.0  # until a Redis that is away is told of again
NEARLY_FULL = (
    "Redis is nearly out of memory; running jobs go on, new ones are refused until it has room: earlier results expire "
    "by themselves (OMNI_RESULT_TTL), and OMNI_MAX_MEMORY (maxmemory) can be raised."
)


def evicts(policy: str) -> str:
    """The sentence about an eviction policy that deletes jobs."""
    return f"Redis has maxmemory-policy {policy}, which would delete jobs; set it to {NOEVICTION}."


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """Bytes in use and the limit (0: none), and the eviction policy."""

    used: int
    limit: int
    policy: str

    @property
    def free_ratio(self) -> float:
        return 1.0 - self.used / self.limit if self.limit else 1.0

    @property
    def fault(self) -> str:
        """Why jobs are not safe here; empty when they are."""
        return "" if self.policy == NOEVICTION else evicts(self.policy)


def memory_of(redis: "Redis") -> RedisMemory:
    """Without permission for INFO: no limit and no fault. Raises RedisError."""
    try:
        info = redis.info("memory")
    except NoPermissionError:
        return RedisMemory(0, 0, NOEVICTION)
    return RedisMemory(
        int(info["used_memory"]), int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", NOEVICTION))
    )


def silence(url: str, error: RedisError) -> str:
    """The sentence about a Redis that does not answer: why, and with REDIS_URL where it should be and what to do."""
    if not url:
        return f"waiting for Redis: {error}"
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2] or parts.path
    todo = "correct its user or password" if isinstance(error, AuthenticationError) else "start it"
    why = str(error).rstrip(".")
    return f"waiting for Redis at {place}, where REDIS_URL leads: {why}. If that lasts, {todo}, or correct REDIS_URL."


class RedisWatch:
    """Says when Redis does not answer, again from time to time, and once when it answers."""

    def __init__(
        self, redis: "Redis", url: str, logger: logging.Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis, self._url, self._logger, self._clock = redis, url, logger, clock
        self._told = ""
        self._told_at = 0.0

    def answers(self) -> bool:
        """Looks once. An error that no wait cures is an answer too."""
        try:
            self._redis.ping()
        except RedisError as error:
            if is_passing(error) or isinstance(error, AuthenticationError):
                self._tell(silence(self._url, error))
                return False
        if self._told:
            self._logger.info("Redis answers")
        self._told = ""
        return True

    def _tell(self, sentence: str) -> None:
        now = self._clock()
        if sentence != self._told or now - self._told_at >= AGAIN_S:
            self._logger.warning(sentence)
            self._told, self._told_at = sentence, now


def open_hosts(url: str) -> str:
    """The hosts of REDIS_URL if they are other machines, reached without a password; else empty."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    has_password = bool(credentials.partition(":")[2] or parse_qs(parts.query).get("password"))
    is_here = parts.scheme == "unix" or all(map(is_loopback, hosts.split(",")))
    return "" if has_password or is_here else hosts


def is_loopback(host: str) -> bool:
    """True for a `name`, `name:port` or `[address]:port` of this machine; an empty name is this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return not name or name in LOOPBACK or name.startswith("127.")


def warn_of_open_redis(url: str, logger: logging.Logger) -> None:
    if hosts := open_hosts(url):
        logger.warning(
            "REDIS_URL leads to %s without a password, so whoever reaches that reads every request: "
            "give it users (deploy/valkey/users.conf).",
            hosts,
        )
