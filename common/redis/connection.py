"""A client for REDIS_URL: redis://, rediss://, unix:// or redis+sentinel://[:password@]host:port,host:port/service[/db]."""

from typing import Any
from urllib.parse import unquote, urlsplit

from redis import BlockingConnectionPool, Redis
from redis.backoff import ExponentialBackoff
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from common.redis.redis_seams import error_code
from common.setting_types import NO_REDIS_ADDRESS
from common.settings import SettingsError

SOCKET_TIMEOUT_S = 2.5  # the longest that a half-open connection delays a stream
POOL_WAIT_S = 20.0  # for a free connection: this process is the busy one then, not Redis
# Codes of transient errors: Redis is loading, out of memory or disk, failing over. Every other code is a bug.
TRANSIENT = frozenset(
    ("LOADING", "OOM", "MISCONF", "READONLY", "BUSY", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN")
)


def connect(url: str, *, retries: int = 1, max_connections: int = 64, parser_class: Any = DefaultParser) -> "Redis":
    """A client whose commands give up within seconds. Raises SettingsError for a URL that cannot be one.

    Past `max_connections` a command waits for a free connection, so a burst of callers opens no burst of connections.
    """
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": 1.0,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "parser_class": parser_class,
    }
    try:
        if url.startswith("redis+sentinel://"):
            return _through_sentinel(url, options)
        options |= {"max_connections": max_connections, "timeout": POOL_WAIT_S}
        return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))
    except ValueError:  # its text may hold a part of a password
        raise SettingsError(NO_REDIS_ADDRESS) from None


def _through_sentinel(url: str, options: dict[str, Any]) -> "Redis":
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    path = [piece for piece in parts.path.split("/") if piece]
    if credentials:
        user, _, password = credentials.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    addresses = [urlsplit(f"//{item}") for item in hosts.split(",")]
    sentinels = [(address.hostname, address.port or 26379) for address in addresses]
    if not path or not all(host for host, _ in sentinels):
        raise ValueError("no service, or no host")
    sentinel = Sentinel(sentinels, sentinel_kwargs={"socket_timeout": 1.0}, **options)
    client: Redis = sentinel.master_for(path[0], db=int(path[1]) if len(path) > 1 else 0)
    return client


def is_passing(error: RedisError) -> bool:
    """True for an error that a wait can cure: the caller tries again, or answers 503."""
    if isinstance(error, (RedisConnectionError, RedisTimeoutError)):
        return True
    return isinstance(error, ResponseError) and error_code(error) in TRANSIENT
