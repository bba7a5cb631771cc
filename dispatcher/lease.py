"""The right to dispatch: a lease in Redis, which one process at a time holds, and its fence in SQL.

The lease makes others wait. The fence, a number in the table `meta` that each new holder raises, makes sure that an
earlier holder that has not noticed its loss yet writes nothing more: every transaction of the dispatcher checks it.
"""

import logging
import os
import socket
import threading
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError

from common.process.processes import is_alive
from common.records.database import Connection, Records, StoreError
from common.records.position import holds_fence, raise_fence
from common.redis import keys
from common.redis.script import Scripts

logger = logging.getLogger("omni.dispatcher")

LEASE_MS = 5000
RENEW_S = 1.0
POLL_S = 0.2


class LeaseLost(Exception):
    """Another dispatcher works now: write nothing more, and end."""


class Lease:
    """One process's hold, a task like the others: run() waits for it and keeps it, and they begin after wait()."""

    name = "lease"

    def __init__(self, redis: "Redis", records: Records) -> None:
        self.fence = 0
        self._redis = redis
        self._records = records
        self._scripts = Scripts(redis)
        self._place = place()
        self._token = f"{self._place}:{os.getpid()}:{uuid4().hex}"
        self._is_held = threading.Event()
        self._is_away = False  # Redis, which is logged once

    def run(self, stopping: threading.Event) -> None:
        """Take the lease and renew it. Raises LeaseLost."""
        if self.take(stopping):
            while not stopping.wait(RENEW_S):
                self.renew()

    def wait(self, stopping: threading.Event) -> bool:
        """Wait until it is held; False when `stopping` is set before."""
        while not self._is_held.wait(POLL_S):
            if stopping.is_set():
                return False
        return True

    def take(self, stopping: threading.Event) -> bool:
        """Wait until the lease is ours and the fence raised; False when `stopping` is set before."""
        told = ""
        while not stopping.is_set():
            try:
                if self._ask(LEASE_MS, self._dead_holder()):
                    with self._records.begin() as connection:
                        self.fence = raise_fence(connection)
                    self._is_held.set()
                    return True
                reason = "another dispatcher works"
            except (RedisError, StoreError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
            if reason != told:
                told = reason
                logger.info("the dispatcher waits: %s", reason)
            stopping.wait(RENEW_S)
        return False

    def renew(self) -> None:
        """Raises LeaseLost. While Redis is away nobody else can take it either."""
        try:
            if not self._ask(LEASE_MS):
                raise LeaseLost("another dispatcher has taken the lease")
            self._is_away = False
        except RedisError as error:
            if not self._is_away:
                logger.warning("the dispatcher's lease is not renewed while Redis is away: %s", error)
            self._is_away = True

    def check(self, connection: Connection) -> None:
        """First statement of each transaction that writes: until its end nobody raises the fence. Raises LeaseLost."""
        if not holds_fence(connection, self.fence):
            raise LeaseLost(f"fence {self.fence} was taken away")

    def give_up(self) -> None:
        """Let the next dispatcher begin at once."""
        try:
            self._ask(0)
        except RedisError as error:
            logger.warning("the dispatcher's lease runs out by itself: %s", error)

    def _ask(self, milliseconds: int, instead_of: str = "") -> bool:
        return bool(self._scripts.run("lease", self._token, milliseconds, instead_of))

    def _dead_holder(self) -> str:
        """The holder's token when it was a process of this machine and is gone: nobody has to wait for it."""
        holder = self._redis.get(keys.DISPATCHER)
        where, _, process = holder.decode().rpartition(":")[0].rpartition(":") if holder else ("", "", "")
        return holder.decode() if where == self._place and process.isdigit() and not is_alive(int(process)) else ""


def place() -> str:
    """Where a process number means the same process: the machine, and its container."""
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()
