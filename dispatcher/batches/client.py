"""POSTs one line to the API as its owner, and waits for the whole answer."""

import threading
from dataclasses import dataclass

import orjson
import urllib3
from redis import Redis

from common.records.batch_work import OpenBatch
from common.redis.dispatch.internal import made_secret
from dispatcher.batches.lines import Line

CONNECT_S = 5.0
READ_S = 600.0  # then the line is sent again and finds its job
TOO_MANY, UNAVAILABLE, UNKNOWN_KEY = 429, 503, 401
GATEWAY_TIMEOUT = 504
AGAIN = frozenset({UNKNOWN_KEY, 408, TOO_MANY, 502, UNAVAILABLE})  # say nothing about the line itself
MAX_RETRY_AFTER_S = 60.0  # limits may be raised meanwhile
AWAY_S = 0.5


class ApiAway(Exception):
    """The API cannot be reached, or broke off; the line is to be sent again after a pause."""

    def __init__(self, why: str, pause_s: float = AWAY_S) -> None:
        super().__init__(why)
        self.pause_s = pause_s  # of all batches


@dataclass(frozen=True, slots=True)
class ApiReply:
    """The API's answer to one line."""

    status_code: int
    body: bytes  # JSON on one line
    request_id: str = ""
    job_id: str = ""
    retry_after_s: float = AWAY_S

    @property
    def is_final(self) -> bool:
        return self.status_code not in AGAIN

    @property
    def is_limit(self) -> bool:
        """A limit of the owner's key, or of the queue."""
        return self.status_code == TOO_MANY

    @property
    def message(self) -> str:
        """Of an error."""
        try:
            return str(orjson.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"status {self.status_code}"


class InternalSecret:
    """The secret by which the API knows the dispatcher, read from Redis once."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._value = ""
        self._lock = threading.Lock()

    def value(self) -> str:
        """Raises RedisError."""
        with self._lock:
            if not self._value:
                self._value = made_secret(self._redis)
            return self._value

    def forget(self, refused: str) -> None:
        """Read it again: Redis may have lost it."""
        with self._lock:
            if self._value == refused:
                self._value = ""


class LineClient:
    """Keep-alive connections to the API, one for each line in flight."""

    def __init__(self, url: str, secret: InternalSecret, max_connections: int) -> None:
        self._secret = secret
        timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        self._pool = urllib3.connection_from_url(url, maxsize=max_connections, timeout=timeout, retries=False)

    def post(self, batch: OpenBatch, line: Line) -> ApiReply:
        """Raises ApiAway, or RedisError when the secret cannot be read."""
        secret = self._secret.value()
        headers = {
            "Authorization": f"Bearer {secret}",
            "Content-Type": "application/json",
            "Omni-Act-As": batch.owner,
            "Omni-Batch": batch.id,
            "Idempotency-Key": idempotency_key(batch.id, line.number),
        }
        try:
            response = self._pool.urlopen("POST", batch.endpoint, line.body, headers, redirect=False)
        except urllib3.exceptions.ReadTimeoutError:
            raise ApiAway("no answer yet", pause_s=0) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAway(type(error).__name__) from None
        if response.status == UNKNOWN_KEY:
            self._secret.forget(secret)
        return reply_of(response)


def reply_of(response: urllib3.BaseHTTPResponse) -> ApiReply:
    """Raises ApiAway for what is no answer of the API's, unless it says that the line is at fault."""
    found, status = response.headers, response.status
    body = response.data.strip()
    if not found.get("Content-Type", "").startswith("application/json"):
        if not 400 <= status < 500:
            raise ApiAway(f"HTTP {status} without JSON", pause_s=0 if status == GATEWAY_TIMEOUT else AWAY_S)
        message = f"HTTP {status} from a proxy between the dispatcher and the API (OMNI_API_URL)."
        body = orjson.dumps(
            {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        )
    return ApiReply(
        status,
        body if b"\n" not in body else b" ".join(body.splitlines()),  # in JSON a line ends only between tokens
        found.get("X-Request-Id", ""),
        found.get("Omni-Job-Id", ""),
        seconds_of(found.get("Retry-After", "")),
    )


def seconds_of(retry_after: str) -> float:
    """The header's seconds. Our API sends no dates."""
    return min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdigit() else AWAY_S


def idempotency_key(batch_id: str, number: int) -> str:
    return f"{batch_id}-{number}"
