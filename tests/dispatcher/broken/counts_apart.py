"""Results and their counts are two transactions."""

import sys
import time
from typing import Any
from unittest.mock import patch

from common.records.batch_work import BatchCounts, record
from dispatcher.batches.recorder import Recorder
from dispatcher.batches.usage import counts_of
from dispatcher.main import main


def commit(self: Any, by_batch: Any) -> None:
    for feed, results in by_batch.items():
        with self._records.begin() as connection:
            record(connection, feed.batch.id, results, BatchCounts())
        time.sleep(0.1)
        with self._records.begin() as connection:
            record(connection, feed.batch.id, [], counts_of(results))


if __name__ == "__main__":
    with patch.object(Recorder, "_commit", commit):
        sys.exit(main())
