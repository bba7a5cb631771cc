"""A job's log: a stream in Redis with one entry per event, numbered from 1 without a gap."""

from dataclasses import dataclass

import orjson
from redis import Redis

from common.redis import keys
from common.wire import Event
from common.wire_codec import decode_event


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event of a job and its number."""

    seq: int
    event: Event


class JobLog:
    """Reads the logs of jobs; the API streams from them, and a worker continues a job from them."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def entries(self, job_id: str, after: int = 0, count: int = 512) -> list[LogEntry]:
        """Up to `count` entries with seq > `after`. Raises RedisError, or WireError for an entry that is not ours."""
        found = self._redis.xrange(keys.log_key(job_id), min=f"({after}-0" if after else "-", count=count)
        return [decode_entry(entry_id, fields) for entry_id, fields in found]


def decode_entry(entry_id: bytes, fields: dict[bytes, bytes]) -> LogEntry:
    """Raises WireError if the entry is not ours."""
    return LogEntry(int(entry_id.partition(b"-")[0]), decode_event(orjson.loads(fields[b"e"])))
