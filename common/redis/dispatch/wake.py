"""Wakes the dispatcher. It looks by itself too, so a lost message costs a second at most."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from common.redis import keys


def dispatcher_lives(redis: "Redis") -> bool:
    """Whether a process holds the dispatcher's lease. Raises RedisError."""
    return bool(redis.exists(keys.DISPATCHER))


def wake_dispatcher(redis: "Redis") -> None:
    """A batch was made, or is to be cancelled. Raises RedisError."""
    redis.publish(keys.DISPATCH, "")


@contextmanager
def wake_ups(redis: "Redis") -> Iterator[Any]:
    """A subscription: get_message(timeout=seconds) returns None when nobody called. Raises RedisError."""
    with redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(keys.DISPATCH)
        yield channel
