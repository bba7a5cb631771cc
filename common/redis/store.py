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
from common.redis.job_view import Jobs, eta_s_of
from common.redis.keys import JobField
from common.redis.metrics import metrics_key
from common.redis.refusals import quota_of, reason_of, refusal
from common.redis.rq_seams import now_iso
from common.redis.script import Reply, Scripts, flat
from common.redis.submission import Submission
from common.wire import JobState, Tier
from common.wire_codec import encode_request


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One answer of poll(): enough to know whether a reader has missed anything."""

    state: JobState | Literal[""]  # "" for an unknown job
    num_entries: int  # in its log
    position: int  # in the queue, 0 is next; -1 when it does not wait there
    eta_s: float = -1.0  # until its first token; -1 when it does not wait, or nothing is known
    not_before: float = 0.0  # unix time before which it is not admitted; 0 when it need not wait for that
    tier: Tier = "default"
    queue: str = ""


class Store:
    """Changes jobs; `log`, `jobs` and `directory` read. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis", *, max_queue: int = 1000, ttl_s: int = 3600) -> None:
        self.redis = redis
        self.max_queue = max_queue
        self.ttl_s = ttl_s
        self.log = JobLog(redis)
        self._scripts = Scripts(redis)
        self.jobs = Jobs(redis, self._scripts)
        self.directory = Directory(redis)

    def submit(self, submission: Submission, rq_job: Mapping[str, Any]) -> Enqueued:
        """Enqueue the job, or find the one that the Idempotency-Key was used for before.

        Raises Overloaded when `max_queue` jobs wait, WindowTooShort for a deadline that cannot be kept, KeyLimited for
        a limit of the key, Unavailable when Redis has no memory for it or may delete it, InvalidRequest for a priority
        that the key has no right to, IdempotencyMismatch when the Idempotency-Key came with another body.
        """
        fields = self._fields(submission)
        reply = self._scripts.ask(
            "submit", submission.request.id, submission.queue, submission.owner, self.max_queue, submission.weight,
            idempotency_hash(submission), submission.body_digest, int(submission.background),
            math.ceil(submission.deadline_s * 1000), len(fields), submission.priority, submission.cost,
            submission.max_entries, submission.entry_bytes, submission.tier, submission.base,
            submission.not_before_ms, int(submission.must_be_kept), *flat(fields), *flat(rq_job),
        )  # fmt: skip
        if reply.outcome == "again":
            return Enqueued(reply.text("id"))
        if reply.outcome != "ok":
            raise self._refusal(submission, reply)
        return Enqueued(
            submission.request.id,
            reply.number("position"),
            reply.number("size"),
            quota_of(reply),
            eta_s_of(reply.number("eta_ms")),
            reply.number("place_ms") / 1000,
        )

    def _fields(self, submission: Submission) -> Mapping[JobField, Any]:
        request = submission.request
        return {
            "request": encode_request(request),
            "form": json_bytes(submission.form),
            "model": request.model,
            "revision": submission.revision,
            "num_prompt": len(request.prompt_ids),
            "max_tokens": request.sampling.max_tokens,
            "planned": submission.planned,
            "places": request.sampling.n,
            "ttl": min(self.ttl_s, submission.kept_s or self.ttl_s),
            "failure_ttl": self.ttl_s,
            "trace": submission.traceparent,
            "kind": submission.form.get("kind", ""),
            "batch": submission.batch,
            "archive": int(submission.archive),
        }

    def _refusal(self, submission: Submission, reply: Reply) -> OmniError:
        with suppress(RedisError):  # memory may be full
            self.redis.hincrby(metrics_key(submission.queue), f"admissions_refused|{reason_of(reply)}", 1)
        return refusal(reply, submission)

    def cancel(
        self, job_id: str, owner: str = "", code: str = JobCancelled.code, message: str = "The job was cancelled."
    ) -> JobState | Literal[""]:
        """Returns the job's state before; '' when it does not exist or is another owner's. '' as owner is the admin."""
        state = self._scripts.run("cancel", job_id, owner, code, message, now_iso(), int(keys.READER_GRACE_S * 1000))
        return state.decode() if state else ""

    def forget(self, job_id: str) -> bool:
        """Delete an ended job and its log before they expire; False while it has not ended."""
        return bool(self._scripts.run("forget", job_id))

    def job_of_key(self, owner: str, idempotency_key: str) -> str:
        """Id of the job that this Idempotency-Key stands for, or ''."""
        key = f"{keys.IDEM}{owner}:{key_hash(idempotency_key)}"
        return (self.redis.hget(key, "id") or b"").decode()

    def poll(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """The status of each job. Also records that these jobs still have readers."""
        found = self._scripts.run("poll", *job_ids)
        return [
            JobStatus(text.decode(), num, position, eta_s_of(eta_ms), not_before / 1000, tier.decode(), queue.decode())
            for text, num, position, eta_ms, not_before, tier, queue in found
        ]

    def expire(self, queue: str) -> None:
        """Admit the jobs that are due; end those that are past their deadline or have lost their reader."""
        self._scripts.expire(queue)


def idempotency_hash(submission: Submission) -> str:
    """SHA-256 of the Idempotency-Key in hex, or '' without one."""
    return key_hash(submission.idempotency_key) if submission.idempotency_key else ""


def key_hash(idempotency_key: str) -> str:
    return hashlib.sha256(idempotency_key.encode()).hexdigest()
