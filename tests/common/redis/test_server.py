"""Each process warns of a Redis on another machine without a password."""

import logging

import pytest

from common.redis.server import open_hosts, warn_of_open_redis

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
