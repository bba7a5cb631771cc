"""Deletes what has been kept long enough. An RQ job calls it every few minutes; it may be killed anywhere."""

import time
from collections.abc import Callable

from common.files.housekeeping import clean
from common.files.storage import FileStorage
from common.records import archive, audit
from common.records.accounts.owned import delete_ended_batches
from common.records.database import Connection, Records
from common.records.webhooks import purge_events
from common.settings import Settings

PAGE = 500


def run(settings: Settings, records: Records) -> None:
    """In small transactions, so that others wait for none of them. Redis deletes by itself what has expired there."""
    now = time.time()
    before = now - settings.store.ttl
    in_pages(records, lambda connection: archive.delete_expired(connection, now, PAGE))
    in_pages(records, lambda connection: purge_events(connection, before, PAGE))
    in_pages(records, lambda connection: delete_ended_batches(connection, before, 1), 1)
    audited_before = now - max(audit.KEPT_S, settings.store.ttl)
    in_pages(records, lambda connection: audit.purge_changes(connection, audited_before, PAGE))
    clean(records, FileStorage(settings.files_url), now)


def in_pages(records: Records, delete: Callable[[Connection], int], page: int = PAGE) -> None:
    """`delete` removes a page at most, and returns how many rows."""
    num_deleted = page
    while num_deleted >= page:
        with records.begin() as connection:
            num_deleted = delete(connection)
