"""The outbox: a stream with one entry for each job that has ended, written in the same step as the end (lib.lua).

The dispatcher's consumer reads it in order and trims what it has applied; the API asks whether all up to now is.
"""

import secrets
import time
from dataclasses import dataclass

from redis import Redis

from common.outbox.entries import EndedJob, job_of
from common.redis import keys

BEGINNING = "0-0"
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where the stream was read: an entry's id, and the stream's life, which ends when Redis is emptied."""

    entry: str = BEGINNING
    life: str = ""

    @staticmethod
    def read(text: str) -> "Position":
        """Of a text made by str()."""
        return Position(*text.split(" ")) if text else Position()

    def __str__(self) -> str:
        return f"{self.entry} {self.life}"


class Outbox:
    """Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def read(self, position: Position, count: int) -> tuple[Position, list[EndedJob]]:
        """At most `count` entries after the position, and the position to go on from.

        A Redis that was emptied has forgotten the life of its stream and gets a new one. Its entries are read from the
        first, even if the clock has gone back since, and the ids of new entries are below those of old ones.
        """
        new_life = secrets.token_hex(8)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(keys.OUTBOX_LIFE, new_life, nx=True, get=True)
        pipeline.xrange(keys.OUTBOX, min=f"({position.entry}", count=count)
        old_life, entries = pipeline.execute()
        life = old_life.decode() if old_life else new_life
        if life != position.life and position.entry != BEGINNING:
            return self.read(Position(BEGINNING, life), count)
        jobs = [job_of(entry.decode(), fields) for entry, fields in entries]
        return Position(jobs[-1].entry if jobs else position.entry, life), jobs

    def wait(self, position: Position, timeout_s: float) -> None:
        """Return when there may be an entry after the position."""
        self._redis.xread({keys.OUTBOX: position.entry}, count=1, block=round(timeout_s * 1000))

    def trim(self, position: Position) -> None:
        """Remove the entries up to the position."""
        ms, number = position.entry.split("-")
        self._redis.xtrim(keys.OUTBOX, minid=f"{ms}-{int(number) + 1}", approximate=False)

    def last(self) -> str:
        """The id of the last entry that is not applied; "" when all are."""
        found = self._redis.xrevrange(keys.OUTBOX, count=1)
        return str(found[0][0].decode()) if found else ""

    def is_applied(self, entry: str) -> bool:
        """True when this entry and all before it have been applied."""
        return not self._redis.xrange(keys.OUTBOX, max=entry, count=1)

    def catches_up(self, timeout_s: float) -> bool:
        """Wait until whatever has ended before this call is applied; False when that takes longer."""
        last, deadline = self.last(), time.monotonic() + timeout_s
        while last and not self.is_applied(last):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def applied_until(self) -> float | None:
        """The unix time of the first entry that is not applied: all jobs that ended before are. None: all are."""
        found = self._redis.xrange(keys.OUTBOX, count=1)
        return int(found[0][0].split(b"-")[0]) / 1000 if found else None
