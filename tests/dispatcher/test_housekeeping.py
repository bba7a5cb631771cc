"""What has been kept long enough goes, and nothing else."""

import time
from pathlib import Path

from sqlalchemy import func, select, update

from common.files.storage import FileStorage
from common.records.database import Records
from common.records.schema import archived_jobs, batches, conversations, files, ledger, webhook_events
from common.settings import read_settings
from dispatcher import housekeeping
from tests.common.records.rows import fill

DATED = {archived_jobs: "expires", files: "expires", batches: "completed", webhook_events: "created"}


def test_what_has_expired_goes_with_its_bytes_and_the_rest_stays(records: Records, tmp_path: Path) -> None:
    settings = read_settings({"OMNI_DATA_DIR": str(tmp_path), "OMNI_STORE_TTL": "86400"})
    storage, now = FileStorage(settings.files_url), time.time()
    with records.begin() as connection:
        fill(connection, "old", 3)
        fill(connection, "new", 2)
        for table, column in DATED.items():
            is_new = table.c.owner == "new"
            connection.execute(update(table).where(is_new).values(**{column: now + 60}))
            connection.execute(update(table).where(~is_new).values(**{column: now - 90_000}))
    for file_id in ("old-0", "new-0"):
        with storage.create(file_id) as pending:
            pending.write(b"x")
    housekeeping.run(settings, records)
    with records.read() as connection:
        left = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (*DATED, conversations, ledger)
        }
    assert left == {**{table.name: 2 for table in DATED}, "conversations": 5, "ledger": 5}
    assert storage.size("new-0") == 1
    assert [path.name for path in tmp_path.rglob("old-0*")] == []


def test_pages_go_on_until_one_is_not_full(records: Records) -> None:
    numbers = [2, 2, 1]
    housekeeping.in_pages(records, lambda _: numbers.pop(0), page=2)
    assert numbers == []
