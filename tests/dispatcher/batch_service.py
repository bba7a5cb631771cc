"""A service with the weightless engine and a dispatcher, whose batches are put straight into the store."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
from sqlalchemy import func, insert, select, update

from common.files.storage import FileStorage
from common.records.database import Records
from common.records.schema import batch_lines, batches, files, ledger
from common.redis import keys
from common.redis.dispatch.wake import wake_dispatcher
from common.redis.keys import owner_of
from common.settings import read_settings
from tests.chaos.harness import KEYS, Harness, Options, Process, wait_until

CHAT = "/v1/chat/completions"
OWNER = owner_of(KEYS[0])
OTHER = owner_of(KEYS[1])


def chat_line(number: int, *, tokens: int = 3, url: str = CHAT, **body: Any) -> bytes:
    asked = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "seed": number}
    line = {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": asked | body}
    return orjson.dumps(line) + b"\n"


class BatchService:
    """Puts batches into the store, and reads what becomes of them."""

    def __init__(self, harness: Harness, module: str = "dispatcher.main") -> None:
        self.harness = harness
        self.module = module
        settings = read_settings({"OMNI_DATA_DIR": str(harness.data_dir), "OMNI_MODEL_NAME": "fake"})
        self.records = Records(settings.store_url)
        self.storage = FileStorage(settings.files_url)
        self.dispatchers: list[Process] = []

    def start_dispatcher(self, **environment: str) -> Process:
        command = [
            sys.executable,
            "-m",
            "common.process.supervise",
            "dispatcher",
            "--",
            sys.executable,
            "-m",
            self.module,
        ]
        ours = self.harness.environment(self.harness.settings.redis.url) | environment
        process = Process(command, ours, self.harness.folder / "dispatcher.out")
        self.dispatchers.append(process)
        return process

    def dispatcher(self) -> psutil.Process:
        return psutil.Process(self.dispatchers[0].popen.pid).children()[0]

    def log(self) -> str:
        return (self.harness.folder / "dispatcher.out").read_text()

    def add(self, lines: Sequence[bytes], *, owner: str = OWNER, window_s: float = 3600.0, **fields: Any) -> str:
        """A new batch of these lines; returns its id."""
        number = self.num_batches()
        batch_id, file_id = f"batch_{number}", f"file-in-{number}"
        with self.storage.create(file_id) as file:
            for line in lines:
                file.write(line)
        now = time.time()
        row = {"id": batch_id, "owner": owner, "dialect": "openai", "endpoint": CHAT, "input_file_id": file_id}
        row |= {"completion_window": "24h", "status": "validating", "created": now, "expires": now + window_s} | fields
        with self.records.begin() as connection:
            connection.execute(insert(batches).values(row))
        wake_dispatcher(self.harness.redis)
        return batch_id

    def cancel(self, batch_id: str) -> None:
        with self.records.begin() as connection:
            going = (batches.c.id == batch_id, batches.c.status.in_(("validating", "in_progress")))
            connection.execute(update(batches).where(*going).values(status="cancelling", cancelling=time.time()))
        wake_dispatcher(self.harness.redis)

    def row(self, batch_id: str) -> Any:
        with self.records.read() as connection:
            return connection.execute(select(batches).where(batches.c.id == batch_id)).one()

    def num_batches(self) -> int:
        with self.records.read() as connection:
            return len(connection.execute(select(batches.c.id)).all())

    def num_recorded(self, batch_id: str) -> int:
        with self.records.read() as connection:
            return len(connection.execute(select(batch_lines.c.number).where(batch_lines.c.batch_id == batch_id)).all())

    def num_jobs_ended(self) -> int:
        """Of all batches: those in the ledger, once it is complete."""
        wait_until(lambda: not self.harness.redis.xlen(keys.OUTBOX), 60, "the ledger")
        with self.records.read() as connection:
            return int(connection.execute(select(func.sum(ledger.c.requests))).scalar_one() or 0)

    def ended(self, batch_id: str, timeout_s: float = 60.0) -> Any:
        """The batch's row once it has ended."""
        wait_until(lambda: self.row(batch_id).status in ("completed", "failed", "expired", "cancelled"), timeout_s)
        return self.row(batch_id)

    def results(self, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        with self.records.read() as connection:
            [size] = connection.execute(select(files.c.num_bytes).where(files.c.id == file_id)).scalars()
        with self.storage.open(file_id) as file:
            raw = file.read()
        assert len(raw) == size
        return [orjson.loads(line) for line in raw.splitlines()]

    def stop(self) -> None:
        for process in self.dispatchers:
            process.end()


@contextmanager
def running_batches(options: Options | None = None, module: str = "dispatcher.main") -> Iterator[BatchService]:
    harness = Harness(options or Options(through_proxy=False))
    service = BatchService(harness, module)
    try:
        harness.start()
        service.start_dispatcher()
        harness.wait_ready()
        yield service
    finally:
        service.stop()
        harness.stop()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
