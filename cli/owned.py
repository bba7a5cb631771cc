"""omni keys export, omni keys purge: all that a key owns, in Redis, in the store and on the disk."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from redis import Redis

from cli.terminal import show_note
from common.files.storage import FileStorage
from common.outbox.stream import Outbox
from common.records.accounts.owned import delete_page, open_batches, owned_rows, owned_tables
from common.records.batches import cancel_batch
from common.records.database import Records
from common.redis import keys
from common.redis.dispatch.wake import wake_dispatcher
from common.redis.key_store import KeyStore
from common.redis.store import Store
from common.settings import Settings
from common.wire_codec import encode_event

ENDED = ("finished", "failed", "cancelled")
END_S = 30.0  # for jobs and batches that go on
APPLY_S = 10.0  # for the dispatcher
POLL_S = 0.1
HASH_LENGTH = 32


class Belongings:
    """What one key owns."""

    def __init__(self, settings: Settings, redis: "Redis", owner: str) -> None:
        self.owner = owner
        self.redis = redis
        self.store = Store(redis)
        self.records = Records(settings.store_url)
        self.files = FileStorage(settings.files_url)

    def export(self, folder: Path) -> dict[str, int]:
        """Write JSON lines for each table, and the bytes of files. Returns what was written: name -> number."""
        folder.mkdir(parents=True, exist_ok=False)
        counts = {}
        for table in owned_tables():
            counts[table.name] = written(folder / f"{table.name}.jsonl", owned_rows(self.records, table, self.owner))
        counts["jobs"] = written(folder / "jobs.jsonl", (self._job(job_id) for job_id in self.job_ids()))
        if counts["files"]:
            (folder / "files").mkdir()
            for line in (folder / "files.jsonl").read_text().splitlines():
                self._copy(json.loads(line)["id"], folder / "files")
        return counts

    def _job(self, job_id: str) -> dict[str, Any]:
        """One that Redis still holds: its state and metadata, and what it has answered."""
        view = self.store.jobs.get(job_id)
        entries = self.store.log.entries(job_id, count=1_000_000)
        log = [json.loads(encode_event(entry.event)) for entry in entries]
        return {**(asdict(view) if view else {"id": job_id}), "log": log}

    def _copy(self, file_id: str, folder: Path) -> None:
        try:
            with (folder / file_id).open("wb") as out:
                for piece in self.files.pieces(file_id):
                    out.write(piece)
        except FileNotFoundError:
            show_note(f"{file_id} has no bytes.")

    def job_ids(self) -> list[str]:
        return [job_id.decode() for job_id in self.redis.zrange(keys.OWN_JOBS + self.owner, 0, -1)]

    def end(self) -> None:
        """Cancel what goes on, and wait for its end. Raises ClickException when it does not end."""
        if not waited(self._has_ended, END_S):
            raise click.ClickException("Jobs or batches of this key still run; see to the worker, then purge again.")
        if not Outbox(self.redis).catches_up(APPLY_S):
            raise click.ClickException("The dispatcher has not applied what has ended; start it, then purge again.")

    def _has_ended(self) -> bool:
        with self.records.begin() as connection:
            running = open_batches(connection, self.owner)
            for batch_id in running:
                cancel_batch(connection, batch_id, time.time())
        if running:
            wake_dispatcher(self.redis)
        states = [self.store.cancel(job_id, self.owner) for job_id in self.job_ids()]
        return not running and all(state in ("", *ENDED) for state in states)

    def delete(self, *, keep_usage: bool) -> int:
        """Delete everything that has ended. Returns the number of rows. May be cut off, and done again."""
        num_rows, num_deleted = 0, 1
        while num_deleted:
            with self.records.begin() as connection:
                num_deleted, file_ids = delete_page(connection, self.owner, {"ledger"} if keep_usage else ())
            for file_id in file_ids:
                self.files.delete(file_id)
            num_rows += num_deleted
        for job_id in self.job_ids():
            self.store.forget(job_id)
        self._forget()
        return num_rows

    def _forget(self) -> None:
        owner = self.owner
        fields = [field for field in self.redis.hkeys(keys.KEY_USAGE) if field.startswith(f"{owner}|".encode())]
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(*(name + owner for name in (keys.OWN_JOBS, keys.KEPT, keys.RATE, keys.DAY)))
            if fields:
                pipeline.hdel(keys.KEY_USAGE, *fields)
            pipeline.execute()
        for key in self.redis.scan_iter(match=f"{keys.IDEM}{owner}:*"):
            self.redis.delete(key)


def written(path: Path, rows: Any) -> int:
    """Write each as a line of JSON; no file without rows. Returns the number."""
    number = 0
    for number, row in enumerate(rows, 1):
        with path.open("w" if number == 1 else "a") as out:
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return number


def waited(is_done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def owner_of_name(store: KeyStore, name: str) -> tuple[str, bool]:
    """The owner of a managed key, or the owner itself as /v1/usage shows it; and whether the key exists."""
    record = next((record for record in store.all() if name in (record.name, record.owner)), None)
    if record is not None:
        return record.owner, True
    if len(name) == HASH_LENGTH and set(name) <= set("0123456789abcdef"):
        return name, False
    raise click.ClickException(f"There is no key named {name!r}; a revoked one is named by its owner's hash.")
