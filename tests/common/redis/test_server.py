"""A Redis on another machine without a password is warned of; one that does not answer is told of."""

import logging

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from common.redis.server import AGAIN_S, RedisWatch, open_hosts, warn_of_open_redis

OPEN = {
    "redis://10.0.0.5:6379/0": "10.0.0.5:6379",
    "redis://valkey": "valkey",
    "rediss://name@valkey:6379": "valkey:6379",
    "redis://[2001:db8::5]:6379": "[2001:db8::5]:6379",
    "redis+sentinel://localhost:26379,s2:26379/mymaster": "localhost:26379,s2:26379",
}
CLOSED = (
    "", "unix:///run/valkey.sock", "redis://", "redis://localhost:6379", "redis://127.0.0.2:6379/1", "redis://[::1]:1",
    "redis://:secret@valkey", "redis://api:secret@10.0.0.5:6379", "redis://valkey?password=secret",
    "redis+sentinel://:secret@s1:26379,s2:26379/mymaster", "redis+sentinel://127.0.0.1:1,localhost:2/mymaster",
)  # fmt: skip


@pytest.mark.parametrize("url", OPEN)
def test_an_open_redis_is_warned_of_in_one_sentence(url: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_open_redis(url, logging.getLogger("omni.test"))
    [record] = caplog.records
    assert f"leads to {OPEN[url]} without a password" in record.getMessage() and "\n" not in record.getMessage()


@pytest.mark.parametrize("url", CLOSED)
def test_a_closed_one_is_not(url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert open_hosts(url) == ""
    warn_of_open_redis(url, logging.getLogger("omni.test"))
    assert not caplog.records


class Answering:
    """A Redis that answers with the given errors in turn, and with PONG after them."""

    def __init__(self, *errors: RedisError) -> None:
        self._errors = list(errors)

    def ping(self) -> bool:
        if self._errors:
            raise self._errors.pop(0)
        return True


def test_a_redis_that_is_away_is_told_of_at_once_and_again_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    away, now = RedisConnectionError("Connection refused"), iter((0.0, AGAIN_S - 0.1, AGAIN_S, AGAIN_S + 1))
    redis = Answering(away, away, away, AuthenticationError("invalid username-password pair"))
    watch = RedisWatch(redis, "redis://me:secret@host:6379/1", logging.getLogger("omni.test"), lambda: next(now))  # type: ignore[arg-type]
    for _ in range(6):
        watch.answers()
    told = [record.getMessage() for record in caplog.records]
    where = "waiting for Redis at host:6379, where REDIS_URL leads: "
    refused = f"{where}Connection refused. If that lasts, start it, or correct REDIS_URL."
    assert told[:2] == [refused, refused]
    assert told[2:] == [
        f"{where}invalid username-password pair. If that lasts, correct its user or password, or correct REDIS_URL.",
        "Redis answers",
    ]


def test_an_error_of_a_redis_that_is_there_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    watch = RedisWatch(Answering(NoPermissionError("PING")), "redis://host", logging.getLogger("omni.test"))  # type: ignore[arg-type]
    watch.answers()
    assert not caplog.records
