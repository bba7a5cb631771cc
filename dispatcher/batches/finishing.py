"""The end of a batch: its files are written from the recorded lines, then everything else is one transaction."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from common.files.storage import FileStorage, PendingFile
from common.records import batch_work
from common.records.batch_work import EndStatus, OpenBatch, ResultFile
from common.records.database import Connection, Records
from dispatcher.batches.lines import ids_of
from dispatcher.batches.results import filename_of, id_of, result_lines
from dispatcher.lease import Lease

logger = logging.getLogger("omni.dispatcher")


class NotEnding(Exception):
    """The batch has changed meanwhile; its files are discarded, and the next round ends it."""


class Growing:
    """A file of results that is being written."""

    def __init__(self, file: PendingFile) -> None:
        self.file = file
        self.num_bytes = 0

    def write(self, line: bytes) -> None:
        self.file.write(line)
        self.num_bytes += len(line)


class Finisher:
    """Ends batches. A death at any point leaves a batch that is ended again, with files of the same ids."""

    def __init__(self, records: Records, lease: Lease, storage: FileStorage) -> None:
        self._records = records
        self._lease = lease
        self._storage = storage

    def finish(self, batch: OpenBatch) -> None:
        """All lines are recorded that will be. Raises LeaseLost, OSError or StoreError."""
        with self._records.begin() as connection:
            self._lease.check(connection)
            batch_work.begin_finalizing(connection, batch.id)
            num_left = batch.num_total - batch_work.num_recorded(connection, batch.id)
        status = status_of(batch, num_left)
        try:
            with ExitStack() as discards:
                made = self._written(batch, status, discards)
                with self._records.begin() as connection:
                    self._end(connection, batch, status, made, num_left)
                    discards.pop_all()  # from here on a commit of unknown outcome may need the files
                    for one in made.values():
                        one.file.commit()
        except NotEnding:
            logger.info("%s changed while it was ending", batch.id)
            return
        logger.info("%s %s: %d of %d requests ran", batch.id, status, batch.num_total - num_left, batch.num_total)

    def _end(
        self, connection: Connection, batch: OpenBatch, status: EndStatus, made: dict[str, Growing], num_left: int
    ) -> None:
        """After this the files get their names, while the lease is ours: no earlier holder replaces them later."""
        self._lease.check(connection)
        if batch_work.num_recorded(connection, batch.id) != batch.num_total - num_left:
            raise NotEnding  # the answer to a line that was still in flight came meanwhile
        files = {
            kind: ResultFile(id_of(batch, kind), filename_of(batch, kind), one.num_bytes) for kind, one in made.items()
        }
        if not batch_work.end(connection, batch, status, files, num_left):
            raise NotEnding

    def _written(self, batch: OpenBatch, status: EndStatus, discards: ExitStack) -> dict[str, Growing]:
        made: dict[str, Growing] = {}
        if not batch.num_total:
            return made
        with self._storage.open(batch.input_file_id) as source:
            requests = ids_of(source, batch.endpoint)
            for kind, line in result_lines(batch, requests, self._recorded(batch), status):
                if kind not in made:
                    made[kind] = Growing(self._storage.create(id_of(batch, kind)))
                    discards.callback(made[kind].file.discard)
                made[kind].write(line)
        return made

    def _recorded(self, batch: OpenBatch) -> Iterator[Any]:
        number = 0
        while True:
            with self._records.read() as connection:
                page = batch_work.lines_after(connection, batch.id, number)
            if not page:
                return
            yield from page
            number = page[-1].number


def status_of(batch: OpenBatch, num_left: int) -> EndStatus:
    if batch.status == "cancelling":
        return "cancelled"
    return "expired" if num_left else "completed"
