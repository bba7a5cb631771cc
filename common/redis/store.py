"""The API's side of Redis: submit, cancel and forget jobs, and poll them for their readers.

Every change is one Lua script (common/redis/scripts), so a process that dies leaves nothing half-written.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis
from redis.exceptions import RedisError

from common.errors import JobCancelled, OmniError
from common.json_bytes import json_bytes
from common.quota import Enqueued
from common.redis import keys
from common.redis.directory import Directory
from common.redis.job_log import JobLog
from common.redis.job_view import Jobs
from common.redis.keys import JobField
from common.redis.metrics import metrics_key
from common.redis.refusals import quota_of, reason_of, refusal
from common.redis.rq_seams import now_iso
from common.redis.script import Reply, Scripts, flat
from common.redis.submission import Submission
from common.wire import JobState
from common.wire_codec import encode_request


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One answer of poll(): enough to know whether a reader has missed anything."""

    state: JobState | Literal[""]  # "" for an unknown job
    num_entries: int  # in its log
    position: int  # in the queue, 0 is next; -1 when it does not wait


class Store:
    """Changes jobs; `log`, `jobs` and `directory` read. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis", *, max_queue: int = 1000, ttl_s: int = 3600) -> None:
        self.redis = redis
        self.max_queue = max_queue
        self.ttl_s = ttl_s
        self.log = JobLog(redis)
        self.jobs = Jobs(redis)
        self.directory = Directory(redis)
        self._scripts = Scripts(redis)

    def submit(self, submission: Submission, rq_job: Mapping[str, Any]) -> Enqueued:
        """Enqueue the job, or find the one that the Idempotency-Key was used for before.

        Raises Overloaded when `max_queue` jobs wait, KeyLimited for a limit of the key, Unavailable when Redis has no
        memory for it or may delete it, InvalidRequest for a priority that the key has no right to, IdempotencyMismatch
        when the Idempotency-Key came with another body.
        """
        fields = self._fields(submission)
        reply = self._scripts.ask(
            "submit", submission.request.id, submission.queue, submission.owner, self.max_queue, submission.weight,
            idempotency_hash(submission), submission.body_digest, int(submission.background),
            math.ceil(submission.deadline_s * 1000), len(fields), submission.priority, submission.cost,
            submission.max_entries, submission.entry_bytes, *flat(fields), *flat(rq_job),
        )  # fmt: skip
        if reply.outcome == "again":
            return Enqueued(reply.text("id"))
        if reply.outcome != "ok":
            raise self._refusal(submission, reply)
        return Enqueued(submission.request.id, reply.number("position"), reply.number("size"), quota_of(reply))

    def _fields(self, submission: Submission) -> Mapping[JobField, Any]:
        request = submission.request
        return {
            "request": encode_request(request),
            "form": json_bytes(submission.form),
            "model": request.model,
            "revision": submission.revision,
            "num_prompt": len(request.prompt_ids),
            "max_tokens": request.sampling.max_tokens,
            "places": request.sampling.n,
            "ttl": min(self.ttl_s, submission.kept_s or self.ttl_s),
            "failure_ttl": self.ttl_s,
            "trace": submission.traceparent,
        }

    def _refusal(self, submission: Submission, reply: Reply) -> OmniError:
        with suppress(RedisError):  # memory may be full
            self.redis.hincrby(metrics_key(submission.queue), f"admissions_refused|{reason_of(reply)}", 1)
        return refusal(reply, submission, self.directory.seconds_per_place(submission.queue))

    def cancel(
        self, job_id: str, owner: str = "", code: str = JobCancelled.code, message: str = "The job was cancelled."
    ) -> JobState | Literal[""]:
        """Returns the job's state before; '' when it does not exist or is another owner's. '' as owner is the admin."""
        state = self._scripts.run("cancel", job_id, owner, code, message, now_iso(), int(keys.READER_GRACE_S * 1000))
        return state.decode() if state else ""

    def forget(self, job_id: str) -> bool:
        """Delete an ended job and its log before they expire; False while it has not ended."""
        return bool(self._scripts.run("forget", job_id))

    def poll(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """The status of each job. Also records that these jobs still have readers."""
        found = self._scripts.run("poll", *job_ids)
        return [JobStatus(state.decode(), num_entries, position) for state, num_entries, position in found]

    def expire(self, queue: str) -> None:
        """End the jobs that are past their deadline or have lost their reader."""
        self._scripts.expire(queue)


def idempotency_hash(submission: Submission) -> str:
    """SHA-256 of the Idempotency-Key in hex, or '' without one."""
    key = submission.idempotency_key
    return hashlib.sha256(key.encode()).hexdigest() if key else ""
