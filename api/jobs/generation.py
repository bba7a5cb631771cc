"""submit(request) -> job; events(job, after) -> its events, live and from the log. Enqueue and read live here.

RQ is known only here and in worker/jobs/omni_worker.py.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gevent
from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from api.jobs.hub import Reader
from api.request.response_meta import job_ids
from common.errors import Conflict, NotFound, Unavailable
from common.quota import Enqueued
from common.redis import keys
from common.redis.connection import is_passing
from common.redis.job_log import LogEntry
from common.redis.rq_seams import now_iso
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import Failed, Finished

PAGE_ROWS = 64  # read from a log at once
LAG_S = 0.1  # so long live rows may be behind a look at the log
REWOUND = (
    "The answer of this job has fewer events than 'starting_after' says were already sent; begin again without it."
)
SILENCE_S = 15.0  # after so long without news a reader is given an Idle, which becomes a keep-alive


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits; `position` 0 is next in line."""

    position: int


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to say for a while."""


@dataclass(frozen=True, slots=True)
class Closing:
    """This process is leaving: the client should come back, to any process, and go on from where it is."""


Notice = Queued | Idle | Closing


class ClientGone(Exception):
    """The caller closed the connection."""


def rq_job(redis: "Redis", job_id: str, queue: str) -> dict[str, Any]:
    """RQ's own record of the job: its id and nothing of the user's text."""
    job = Job.create(
        keys.TASK,
        args=[job_id],
        connection=redis,
        id=job_id,
        origin=queue,
        description=job_id,
        serializer=JSONSerializer,
        status=JobStatus.QUEUED,
    )
    fields: dict[str, Any] = job.to_dict()
    fields["enqueued_at"] = now_iso()
    return {name: value for name, value in fields.items() if value is not None}


def submit(store: Store, submission: Submission) -> Enqueued:
    """Enqueue one job. Raises what Store.submit does, or Unavailable (Redis is away)."""
    try:
        return store.submit(submission, rq_job(store.redis, submission.request.id, submission.queue))
    except RedisError as error:
        raise unavailable(error) from error


def submit_all(store: Store, submissions: Sequence[Submission]) -> Enqueued:
    """Enqueue the jobs of one answer, all or none; returns the answer's id, an older one for a known Idempotency-Key.

    In that case jobs that are missing, because a process died between two of them, are enqueued now.
    """
    first = submissions[0].request.id
    enqueued = submit(store, submissions[0])
    answer_id = enqueued.job_id
    ids = job_ids(answer_id, len(submissions))
    try:
        for job_id, submission in zip(ids[1:], submissions[1:], strict=True):
            request = replace(submission.request, id=job_id)
            enqueued = submit(store, replace(submission, request=request, form=submission.form | {"id": answer_id}))
    except BaseException:
        if answer_id == first:
            for job_id in ids:
                store.cancel(job_id, message="The queue had no room for all prompts of the request.")
        raise
    return replace(enqueued, job_id=answer_id)


def unavailable(error: RedisError) -> Unavailable:
    """The 503 for a Redis that is away or full; re-raises what waiting would not cure."""
    if not is_passing(error):
        raise error
    return Unavailable("Redis cannot take requests now (it is away, loading or full); try again soon.")


def events(store: Store, reader: Reader, after: int, *, is_new: bool) -> Iterator[LogEntry | Notice]:
    """Every row with seq > `after`, once and in order, up to and including the last; notices in between.

    The reader must have been opened before the job was submitted (`is_new`) or the log is read first. Redis may go away
    meanwhile: the reader waits. Raises ClientGone, NotFound when the job is unknown, Conflict when its log was rewound.
    """
    seq, must_read = after, not is_new
    while True:
        rows = _from_log(store, reader.job_id, seq) if must_read else reader.take()
        must_read = must_read and bool(rows)
        for row in rows:
            if row.seq <= seq:
                continue
            if row.seq > seq + 1:
                must_read = True
                break
            seq = row.seq
            yield row
            if isinstance(row.event, (Finished, Failed)):
                return
        if rows:
            reader.told_at = time.monotonic()
            if not reader.is_closing:  # rows may come faster than they are taken
                continue
        if reader.is_client_gone:
            raise ClientGone
        if reader.is_closing:
            yield Closing()
            return
        must_read, notice = _wait(store, reader, seq)
        if notice is not None:
            yield notice


def logged(store: Store, job_id: str) -> Iterator[LogEntry]:
    """The rows that the job's log holds now. Raises RedisError."""
    seq = 0
    while rows := store.log.entries(job_id, after=seq, count=PAGE_ROWS):
        yield from rows
        seq = rows[-1].seq
        gevent.sleep(0)  # as in _from_log


def _wait(store: Store, reader: Reader, seq: int) -> tuple[bool, Notice | None]:
    """Sleep until there is news. Returns whether the log must be read, and what to tell the caller."""
    is_behind = reader.look.num_entries > seq  # the missing rows may be on their way, or lost
    is_awake = reader.wake.wait(LAG_S if is_behind else None)  # the sweep wakes too: a timer for each row would be dear
    reader.wake.clear()
    if is_behind and not is_awake:
        return True, None
    look = reader.look
    if reader.is_told:
        reader.is_told = False
        if look.state == "" or look.num_entries < seq:
            _check(store, reader.job_id, seq)
    if look.state == "queued" and look.position not in (-1, reader.told_position):
        reader.told_position = look.position
        reader.told_at = time.monotonic()
        return False, Queued(look.position)
    if time.monotonic() - reader.told_at < SILENCE_S and not reader.must_speak:
        return False, None
    reader.must_speak = False
    reader.told_at = time.monotonic()
    return False, Idle()


def _check(store: Store, job_id: str, seq: int) -> None:
    """The sweep's look may be older than the job, or than the rows that came live: look again before judging."""
    try:
        [look] = store.poll([job_id])
    except RedisError as error:
        if not is_passing(error):
            raise
        return
    if look.state == "":
        raise NotFound("This job does not exist any more; results are kept for a limited time.")
    if look.num_entries < seq:
        raise Conflict(REWOUND, code="stream_rewound")


def _from_log(store: Store, job_id: str, seq: int) -> list[LogEntry]:
    gevent.sleep(0)  # a long log is read in many pieces: the others' turn between them
    try:
        return store.log.entries(job_id, after=seq, count=PAGE_ROWS)
    except RedisError as error:
        if not is_passing(error):
            raise
        return []
