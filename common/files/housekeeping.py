"""Removes expired files, and bytes that have no record: of uploads and results that were cut off by a crash."""

import logging
import time

from common.files.storage import TEMPORARY, FileStorage
from common.records.database import Records
from common.records.files import delete_expired, known_files

logger = logging.getLogger("omni.files")

PAGE = 500
ORPHAN_AGE_S = 24 * 3600  # bytes come before their record: an upload may last so long, and a batch's end


def clean(records: Records, storage: FileStorage, now: float | None = None) -> tuple[int, int]:
    """The numbers of expired files and of orphans that were removed. May be stopped anywhere, and called again."""
    num_expired = _remove_expired(records, storage, time.time() if now is None else now)
    num_orphans = _remove_orphans(records, storage)
    if num_orphans:
        logger.warning("removed %d files without a record, which crashes had left", num_orphans)
    return num_expired, num_orphans


def _remove_expired(records: Records, storage: FileStorage, now: float) -> int:
    """The records first: bytes without a record are found again, a record without bytes would be a broken promise."""
    num_removed = 0
    while True:
        with records.begin() as connection:
            ids = delete_expired(connection, now, PAGE)
        for file_id in ids:
            storage.delete(file_id)
        num_removed += len(ids)
        if len(ids) < PAGE:
            return num_removed


def _remove_orphans(records: Records, storage: FileStorage) -> int:
    names = storage.old_names(ORPHAN_AGE_S)
    orphans = [name for name in names if TEMPORARY in name]
    whole = [name for name in names if TEMPORARY not in name]
    for at in range(0, len(whole), PAGE):
        page = whole[at : at + PAGE]
        with records.read() as connection:
            known = known_files(connection, page)
        orphans += [name for name in page if name not in known]
    for name in orphans:
        storage.remove(name)
    return len(orphans)
