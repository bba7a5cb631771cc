"""Makes a step's events durable and visible with one script call, sent before the next step and read after it.

Redis works while the model does, and no event is visible that is not in the log.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from redis import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisError

from common.errors import JobCancelled, ReaderGone
from common.redis.connection import is_passing
from common.redis.redis_seams import HeldConnection
from common.redis.rq_seams import now_iso
from common.redis.script import FOLDER, source
from common.wire import Delta, EndState, Event, Failed, Finished
from common.wire_codec import encode_event
from worker.jobs.ledger import Fenced

logger = logging.getLogger("omni.worker")

RETRY_S = 0.1


@dataclass(slots=True)
class Progress:
    """The length of one job's log, events on their way included."""

    num_entries: int
    is_suspect: bool
    gpu_us: int = 0  # of the device, not sent yet


class Publisher:
    """Owns the entry numbers of every job in flight, and one connection for appends."""

    def __init__(self, redis: "Redis", fence: int) -> None:
        self.fence = fence
        self._redis = redis
        self._source = source("append", FOLDER)
        self._sha = ""
        self._connection: HeldConnection | None = None
        self._pending: list[Any] = []  # arguments of the call whose reply was not read yet
        self._progress: dict[str, Progress] = {}

    def open(self, job_id: str, num_entries: int, is_suspect: bool) -> None:
        """Start counting a job whose log holds `num_entries` entries."""
        self._progress[job_id] = Progress(num_entries, is_suspect)

    def close(self, job_id: str) -> None:
        """Stop counting a job: its log has ended, or belongs to another worker now."""
        self._progress.pop(job_id, None)

    def has(self, job_id: str) -> bool:
        return job_id in self._progress

    @property
    def num_suspects(self) -> int:
        return sum(progress.is_suspect for progress in self._progress.values())

    def charge(self, gpu_us: Mapping[str, int]) -> None:
        """Microseconds of the device by job; each job's next event carries them into its record."""
        for job_id, more in gpu_us.items():
            if (progress := self._progress.get(job_id)) is not None:
                progress.gpu_us += more

    def send(self, events: Sequence[tuple[str, Event]]) -> list[str]:
        """Send one step's events; returns the suspects that this step cleared. confirm() reads the reply."""
        arguments: list[Any] = [self.fence, now_iso()]
        cleared = []
        for job_id, event in events:
            progress = self._progress.get(job_id)
            if progress is None:
                continue
            progress.num_entries += 1
            if progress.is_suspect:
                cleared.append(job_id)
            state, code = end_of(event)
            num_tokens = len(event.token_ids) if isinstance(event, Delta) else 0
            if isinstance(event, Finished):
                event = replace(event, ended=int(time.time()))
            entry = encode_event(event)
            arguments += [job_id, progress.num_entries, entry, num_tokens, state, code, int(progress.is_suspect)]
            arguments.append(progress.gpu_us)
            progress.is_suspect, progress.gpu_us = False, 0
        if len(arguments) > 2:
            self._pending = arguments
            self._write()
        return cleared

    def confirm(self) -> dict[str, str]:
        """Wait until the last send is durable; returns refused jobs and the reasons. The caller drops them.

        Raises Fenced. While Redis is away this waits and sends again; entries are numbered, so a repeat is ignored.
        """
        waited = False
        while self._pending:
            try:
                reply = self._read()
            except NoScriptError:
                self._sha = ""
                self._write()
                continue
            except RedisError as error:
                if not is_passing(error):
                    raise
                if not waited:
                    logger.warning("Redis does not take the log now (%s); waiting", error)
                waited = True
                time.sleep(RETRY_S)
                self._write()
                continue
            self._pending = []
            if reply and reply[0] == b"fenced":
                raise Fenced(f"fence {self.fence} was taken away")
            return dict(refusal.decode().rpartition(":")[::2] for refusal in reply)
        return {}

    def _write(self) -> None:
        """Send the pending call. Errors show when its reply is read."""
        try:
            if self._connection is None:
                self._connection = HeldConnection(self._redis)
            if not self._sha:
                self._connection.send("SCRIPT", "LOAD", self._source)
                self._sha = self._connection.read().decode()
            self._connection.send("EVALSHA", self._sha, 0, *self._pending)
        except (RedisError, OSError):
            self._drop_connection()

    def _read(self) -> Any:
        if self._connection is None:
            self._write()
            if self._connection is None:
                raise ConnectionLost("no connection")
        try:
            return self._connection.read()
        except RedisError as error:
            if is_passing(error):
                self._drop_connection()
            raise
        except OSError as error:
            self._drop_connection()
            raise ConnectionLost(str(error)) from error

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.drop()
        self._connection, self._sha = None, ""


def end_of(event: Event) -> tuple[EndState | Literal[""], str]:
    """The job's final state and code after this event; empty while the job continues."""
    if isinstance(event, Delta):
        return "", ""
    if isinstance(event, Failed):
        return ("cancelled" if event.code in (JobCancelled.code, ReaderGone.code) else "failed"), event.code
    return "finished", ""
