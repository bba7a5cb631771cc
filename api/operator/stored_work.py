"""What the board and /metrics show of the store: batches and webhooks of all keys. A read never holds up a frame."""

import logging
import time
from typing import Any

import gevent

from api.jobs.service import Service
from api.process.offload import in_store_thread
from common.errors import Unavailable
from common.records.batches import BatchRow, batch_counts, board_batches, expected_end
from common.records.database import StoreError
from common.records.deliveries import delivery_counts
from common.records.webhooks import failing_endpoints

logger = logging.getLogger("omni.api")

PERIOD_S = 2.0
COUNTS_PERIOD_S = 10.0  # they are made of all rows
PATIENCE_S = 0.5  # of a frame whose read is not done
SHOWN_S = 24 * 3600  # after their creation, of batches that have ended
MAX_BATCHES = 50
MAX_ENDPOINTS = 20
DONE = ("num_succeeded", "num_errored", "num_expired", "num_cancelled")


class StoredView:
    """The newest read, shared by all viewers of this process. There is one read at a time, in a thread."""

    def __init__(self, service: Service, empty: dict[str, Any], period_s: float) -> None:
        self._service = service
        self._period_s = period_s
        self._read: gevent.Greenlet | None = None
        self._begun = float("-inf")
        self._found: dict[str, Any] = empty | {"is_store_away": False}

    def newest(self) -> dict[str, Any]:
        """Of period_s ago at most, or of the last time that the store answered; then `is_store_away` is true."""
        if self._read is None and time.monotonic() - self._begun >= self._period_s:
            self._begun = time.monotonic()
            self._read = gevent.spawn(self._refresh)
        if (read := self._read) is not None:  # two callers may wait for it: the first to wake forgets it
            read.join(timeout=PATIENCE_S)
            if read.ready():
                self._read = None if read is self._read else self._read
            elif time.monotonic() - self._begun >= self._period_s:
                self._found = self._found | {"is_store_away": True}
        return self._found

    def _refresh(self) -> None:
        try:
            self._found = in_store_thread(self._all) | {"is_store_away": False}
        except (StoreError, Unavailable) as error:  # away, or migrated by a later version
            if not self._found["is_store_away"]:
                logger.warning("the store cannot be read to be shown (%s)", type(error).__name__)
            self._found = self._found | {"is_store_away": True}

    def _all(self) -> dict[str, Any]:
        """Called in a thread. Raises StoreError."""
        raise NotImplementedError


class StoredWork(StoredView):
    """The board's."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, {"batches": [], "num_open_batches": 0, "webhooks": []}, PERIOD_S)

    def _all(self) -> dict[str, Any]:
        now = time.time()
        with self._service.records.read() as connection:
            rows, num_open = board_batches(connection, now - SHOWN_S, MAX_BATCHES)
            endpoints = failing_endpoints(connection, MAX_ENDPOINTS)
        name_of = self._service.keys.name_of
        return {
            "batches": [_batch(row) | {"owner": name_of(row["owner"])} for row in rows],
            "num_open_batches": num_open,
            "webhooks": [
                {
                    "id": endpoint.id,
                    "name": endpoint.name,
                    "url": endpoint.url,
                    "owner": name_of(endpoint.owner),
                    "failing_since": endpoint.failing_since,
                    "disabled": endpoint.disabled,
                    "reason": endpoint.disabled_why or "",
                }
                for endpoint in endpoints
            ],
        }


class StoredCounts(StoredView):
    """Those of /metrics: the numbers of batches by status, of their lines by outcome, of deliveries by state."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, {"batches": {}, "batch_lines": {}, "webhook_deliveries": {}}, COUNTS_PERIOD_S)

    def _all(self) -> dict[str, Any]:
        with self._service.records.read() as connection:
            statuses, lines = batch_counts(connection)
            return {
                "batches": statuses,
                "batch_lines": lines,
                "webhook_deliveries": delivery_counts(connection),
            }


def _batch(row: BatchRow) -> dict[str, Any]:
    """`eta` and `created` are unix seconds."""
    return {
        "id": row["id"],
        "status": row["status"],
        "endpoint": row["endpoint"],
        "model": row["model"] or "",
        "total": row["num_total"],
        "done": sum(row[name] for name in DONE),
        "failed": row["num_errored"],
        "lines_per_s": row["lines_per_s"] if row["status"] == "in_progress" else None,
        "eta": expected_end(row),
        "created": row["created"],
    }
