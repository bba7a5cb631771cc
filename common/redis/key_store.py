"""API keys that are managed while the service runs: their names, rights and limits in Redis, but not the keys.

    KEY_NAMES      hash: name -> owner
    KEYS_VERSION   counts changes, so that API processes know when to read again
    KEY + owner    hash: name, digest (SHA-256 of the key), created, and the fields of KeyLimits

submit.lua reads KEY + owner itself: a changed limit holds for the next request.
"""

import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

from redis import Redis

from common.errors import Conflict, InvalidRequest, NotFound
from common.redis import keys
from common.wire import TIERS, Tier

PREFIX = "sk-omni-"
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits and rights of a key. 0: no limit. A key of weight 2 gets twice the share of one of weight 1."""

    max_in_flight: int = 0  # waiting and running together
    max_queued: int = 0
    tokens_per_minute: int = 0  # prompt and answer
    tokens_per_day: int = 0  # prompt and answer, from 00:00 UTC
    max_kept_bytes: int = 0  # requests and answers, until they expire; on top of submit.lua's own bound for every key
    weight: float = 1.0
    priority: int = 0  # how far it may go ahead: requests may ask for `priority` of minus this, or more
    tiers: str = "default,flex"  # that its requests may use; an admin's may use all
    admin: int = 0

    @property
    def allowed_tiers(self) -> tuple[Tier, ...]:
        return TIERS if self.admin else cast(tuple[Tier, ...], tuple(self.tiers.split(",")))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A managed key, known by its SHA-256."""

    name: str
    owner: str
    digest: str
    created: float
    limits: KeyLimits


def checked_limits(limits: KeyLimits) -> KeyLimits:
    """Raises InvalidRequest that names the limit."""
    if not 0.001 <= limits.weight <= 1000:
        raise InvalidRequest("'weight' must be between 0.001 and 1000.", param="weight")
    if not 0 <= limits.priority <= 100:
        raise InvalidRequest("'priority' must be between 0 and 100.", param="priority")
    if not (tiers := limits.tiers.split(",")) or len({*tiers} & {*TIERS}) < len(tiers):
        raise InvalidRequest(f"'tiers' must be some of {', '.join(TIERS)}, with commas in between.", param="tiers")
    for name in ("max_in_flight", "max_queued", "tokens_per_minute", "tokens_per_day", "max_kept_bytes"):
        if not 0 <= getattr(limits, name) <= 10**12:
            raise InvalidRequest(f"'{name}' must be a whole number from 0 (no limit).", param=name)
    return limits


class KeyStore:
    """Reads and changes the managed keys. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self.redis = redis

    def add(self, name: str, limits: KeyLimits) -> str:
        """Returns a new random key of 256 bits, never readable again. Raises Conflict for a name that is taken."""
        if not (name.isprintable() and 1 <= len(name) <= MAX_NAME):
            raise InvalidRequest(f"A key's name has 1 to {MAX_NAME} printable characters.", param="name")
        key = PREFIX + secrets.token_urlsafe(32)
        owner = keys.owner_of(key)
        record = {"name": name, "digest": keys.digest_of(key), "created": time.time(), **asdict(checked_limits(limits))}

        def take(pipeline: Any) -> bool:
            before = pipeline.hget(keys.KEY_NAMES, name)
            is_free = before is None or not pipeline.exists(keys.KEY + before.decode())  # its record was never written
            pipeline.multi()
            if is_free:
                pipeline.hset(keys.KEY_NAMES, name, owner)
                pipeline.hset(keys.KEY + owner, mapping=record)
                pipeline.incr(keys.KEYS_VERSION)
            return is_free

        if not self.redis.transaction(take, keys.KEY_NAMES, value_from_callable=True):
            raise Conflict(f"There is a key named {name!r} already; revoke it first or choose another name.")
        return key

    def revoke(self, name: str) -> None:
        """Refuse requests with this key from now on; its jobs go on. Raises NotFound."""
        owner = self._owner(name)
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.hdel(keys.KEY_NAMES, name).delete(keys.KEY + owner, keys.RATE + owner, keys.DAY + owner).incr(
                keys.KEYS_VERSION
            ).execute()

    def set_limits(self, name: str, limits: KeyLimits) -> None:
        """Raises NotFound or InvalidRequest."""
        owner = self._owner(name)
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(keys.KEY + owner, mapping=asdict(checked_limits(limits))).incr(keys.KEYS_VERSION).execute()

    def version(self) -> int:
        return int(self.redis.get(keys.KEYS_VERSION) or 0)

    def all(self) -> list[KeyRecord]:
        """The keys, sorted by name."""
        owners = sorted(self.redis.hgetall(keys.KEY_NAMES).items())
        pipeline = self.redis.pipeline(transaction=False)
        for _, owner in owners:
            pipeline.hgetall(keys.KEY + owner.decode())
        found = zip(owners, pipeline.execute(), strict=True)
        return [_record(owner.decode(), stored) for (_, owner), stored in found if stored]

    def usage(self, owner: str) -> tuple[int, int]:
        """The numbers of waiting and running jobs of this owner."""
        return int(self.redis.scard(keys.OWN_QUEUED + owner)), int(self.redis.scard(keys.OWN_RUNNING + owner))

    def kept_bytes(self, owner: str) -> int:
        """The memory that this owner's requests and answers take in Redis."""
        return int(self.redis.hget(keys.KEPT + owner, "total") or 0)

    def _owner(self, name: str) -> str:
        owner = self.redis.hget(keys.KEY_NAMES, name)
        if owner is None:
            raise NotFound(f"There is no key named {name!r}.")
        return str(owner.decode())


def _record(owner: str, stored: dict[bytes, bytes]) -> KeyRecord:
    texts = {name.decode(): value.decode() for name, value in stored.items()}
    limits = KeyLimits(
        max_in_flight=int(texts["max_in_flight"]),
        max_queued=int(texts["max_queued"]),
        tokens_per_minute=int(texts["tokens_per_minute"]),
        tokens_per_day=int(texts.get("tokens_per_day", 0)),  # newer than the others, as is the next
        max_kept_bytes=int(texts.get("max_kept_bytes", 0)),
        weight=float(texts["weight"]),
        priority=int(texts["priority"]),
        tiers=texts.get("tiers", KeyLimits().tiers),
        admin=int(texts["admin"]),
    )
    return KeyRecord(texts["name"], owner, texts["digest"], float(texts["created"]), limits)
