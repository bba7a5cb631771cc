"""Records the states of the service during a run, to explain stalls. A process of its own.

    python -m tests.chaos.pulse /run/valkey.sock > pulse

Ten times a second it asks Valkey, past the proxy, and prints `<monotonic s> <state>`: from when on, and what.
"""

import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from common.redis import keys

EVERY_S = 0.1
LATE_S = 0.4  # so late only a process that got no CPU is
RENEWAL_S = 1.3  # a lease that runs has been renewed since, even on a busy machine

STARVED, DOWN, LOADING, SILENT, REFUSING = (
    "no CPU", "Valkey down", "Valkey loading", "Valkey silent", "Valkey refusing",
)  # fmt: skip
LEASE, NO_WORKER, NO_API, UP = "a worker silent in its lease", "no worker", "no API subscribed", "all up"


def state_of(redis: "Redis") -> tuple[str, float]:
    """One word for the state of Valkey, the workers and the API processes, and for how many seconds it has lasted."""
    try:
        redis.ping()
        fences = [int(fence) for fence in redis.zrange("omni:workers", 0, -1)]
        age_s = max((keys.LEASE_MS / 1000 - redis.pttl(keys.worker_key(fence)) / 1000 for fence in fences), default=0.0)
        if age_s > RENEWAL_S:
            return LEASE, age_s
        if not any(redis.hget(keys.worker_key(fence), "state") == b"ready" for fence in fences):
            return NO_WORKER, 0.0
        return (UP if redis.pubsub_numsub(keys.EVENTS)[0][1] else NO_API), 0.0
    except BusyLoadingError:
        return LOADING, 0.0
    except TimeoutError:
        return SILENT, 0.0
    except ConnectionError:
        return DOWN, 0.0
    except RedisError:
        return REFUSING, 0.0


class Pulse:
    """States with their beginnings, in order."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._began: list[float] = []
        self._states: list[str] = []
        for line in lines:
            at, _, state = line.rstrip("\n").partition(" ")
            if state:
                self._note(float(at), state)

    def _note(self, at: float, state: str) -> None:
        """A state that is noticed late began when the last good one was seen."""
        while self._began and self._began[-1] > at and self._states[-1] == UP:
            self._began.pop()
            self._states.pop()
        self._began.append(max([at, *self._began[-1:]]))
        self._states.append(state)

    def within(self, began: float, ended: float) -> list[tuple[str, float]]:
        """Seconds of each state between two moments, the longest first."""
        seconds: Counter[str] = Counter()
        first, last = bisect_right(self._began, began), bisect_right(self._began, ended)
        for number in range(max(0, first - 1), last):
            until = self._began[number + 1] if number + 1 < last else ended
            seconds[self._states[number]] += until - max(began, self._began[number])
        return [(state, s) for state, s in seconds.most_common() if s > 0]


def main() -> None:
    redis = Redis(unix_socket_path=sys.argv[1], socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
    asked = time.monotonic()
    while True:
        now = time.monotonic()
        if now - asked > EVERY_S + LATE_S:
            print(f"{asked + EVERY_S:.3f} {STARVED}")
        state, since_s = state_of(redis)
        asked = time.monotonic()
        print(f"{now - since_s:.3f} {state}", flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
