"""The outbox's consumer: what Redis says of ended jobs becomes rows, each exactly once.

One page of entries is one transaction: every applier's changes, and the position. Entries are trimmed after it. A
process that dies before the commit has changed nothing, and one that dies after it finds the position moved.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from common.outbox.entries import EndedJob
from common.outbox.stream import Outbox, Position
from common.records.database import Connection, Records
from common.records.database import is_away as is_store_away
from common.records.position import move_position, stored_position
from common.redis.connection import is_passing
from dispatcher import ledger
from dispatcher.lease import LeaseLost
from dispatcher.webhooks import applier as webhooks

logger = logging.getLogger("omni.dispatcher")

PAGE = 100  # also answers to archive, and writers of SQLite wait for all of them: 1,000 tokens are 3 ms
WAIT_S = 0.5  # the longest that a stop has to wait
AWAY_S = 1.0

Check = Callable[[Connection], None]
Applier = Callable[[Connection, Sequence[EndedJob]], None]
APPLIERS: tuple[Applier, ...] = (ledger.apply, webhooks.apply)


class OutboxConsumer:
    """A task of the dispatcher (dispatcher/task.py).

    `check` begins each transaction: Lease.check. `committed` is told of each page after its commit, unless this process
    dies between the two.
    """

    name = "outbox"

    def __init__(
        self,
        outbox: Outbox,
        records: Records,
        check: Check,
        appliers: Sequence[Applier] = APPLIERS,
        committed: Callable[[Sequence[EndedJob]], None] | None = None,
    ) -> None:
        self._outbox = outbox
        self._records = records
        self._check = check
        self._appliers = appliers
        self._committed = committed
        self._page = PAGE
        self._is_away = False

    def run(self, stopping: threading.Event) -> None:
        """Apply pages until `stopping` is set. While Redis or the database is away it waits."""
        while not stopping.is_set():
            try:
                position = self.apply_page()
                if position is not None:
                    self._outbox.wait(position, WAIT_S)
                self._is_away = False
            except Exception as error:
                if not is_away(error):
                    raise
                if not self._is_away:
                    logger.warning("the outbox waits: %s", type(error).__name__)
                self._is_away = True
                stopping.wait(AWAY_S)

    def apply_page(self) -> Position | None:
        """Apply the next page. Returns the position when nothing was there to apply, otherwise None."""
        with self._records.read() as connection:
            stored = stored_position(connection)
        after, jobs = self._outbox.read(Position.read(stored), self._page)
        if not jobs:
            return after
        try:
            has_moved = self._apply(stored, after, jobs)
        except Exception as error:
            if isinstance(error, LeaseLost) or is_away(error):
                raise
            if len(jobs) > 1:  # it may be one entry that cannot be applied: alone it costs itself only
                self._page = 1
                return None
            logger.exception("an ended job is left out of the store: %s", jobs[0])
            with self._records.begin() as connection:
                self._check(connection)
                has_moved = move_position(connection, stored, str(after))
        self._page = min(PAGE, 2 * self._page)
        if has_moved:  # otherwise another consumer was faster, and may not have applied all that was read here
            if self._committed is not None:
                self._committed(jobs)
            self._outbox.trim(after)
        return None

    def _apply(self, stored: str, after: Position, jobs: Sequence[EndedJob]) -> bool:
        with self._records.begin() as connection:
            self._check(connection)
            has_moved = move_position(connection, stored, str(after))
            if has_moved:
                for apply in self._appliers:
                    apply(connection, jobs)
            return has_moved


def is_away(error: Exception) -> bool:
    """True when Redis or the store is away, which a wait may cure."""
    return is_passing(error) if isinstance(error, RedisError) else is_store_away(error)
