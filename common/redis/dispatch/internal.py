"""The secret that the dispatcher shows to the API when it acts for an owner. The first to need it makes it."""

import secrets

from redis import Redis

from common.redis import keys

NUM_BYTES = 32


def internal_secret(redis: "Redis") -> str:
    """Empty while the dispatcher has made none. Raises RedisError."""
    found: bytes | None = redis.get(keys.INTERNAL)
    return found.decode() if found else ""


def made_secret(redis: "Redis") -> str:
    """The same for all dispatchers, and after each restart. Raises RedisError."""
    redis.set(keys.INTERNAL, secrets.token_urlsafe(NUM_BYTES), nx=True)
    return internal_secret(redis)
