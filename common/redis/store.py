"""The API's view of what Redis holds: put a request into the line, look at jobs, read their logs, cancel.

Every change is one Lua script (common/redis/scripts), so a process that dies leaves nothing half-written.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from redis import Redis
from redis.exceptions import RedisError

from common.errors import IdempotencyMismatch, InvalidRequest, KeyLimited, Overloaded, Unavailable
from common.json_bytes import json_bytes
from common.quota import Enqueued, Quota
from common.redis import keys
from common.redis.directory import Directory
from common.redis.job_log import JobLog
from common.redis.job_view import Jobs
from common.redis.memory import NEARLY_FULL, evicts
from common.redis.metrics import metrics_key
from common.redis.rq_seams import now_iso
from common.redis.script import Scripts
from common.redis.submission import Submission
from common.wire import encode_request

REFUSALS = {
    b"full": "queue_full",
    b"mismatch": "idempotency_mismatch",
    b"priority": "priority",
    b"memory": "memory",
    b"evicts": "maxmemory_policy",
}


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One answer of poll(): enough to know whether a reader has missed anything."""

    state: str  # "" for an unknown job
    num_entries: int  # in its log
    position: int  # in the queue, 0 is next; -1 when it does not wait


class Store:
    """The API's side of Redis. Changes are methods; `log`, `jobs` and `directory` read."""

    def __init__(self, redis: "Redis", *, max_queue: int = 1000, ttl_s: int = 3600, failure_ttl_s: int = 3600) -> None:
        self.redis = redis
        self.max_queue = max_queue
        self.ttl_s = ttl_s
        self.failure_ttl_s = failure_ttl_s
        self.log = JobLog(redis)
        self.jobs = Jobs(redis)
        self.directory = Directory(redis)
        self._scripts = Scripts(redis)

    def submit(self, submission: Submission, rq_job: Mapping[str, Any]) -> Enqueued:
        """Put the job into the line, or find the one that the Idempotency-Key was used for before.

        Raises Overloaded when `max_queue` jobs wait, KeyLimited for a limit of the key, Unavailable when Redis has no
        memory for it or may delete it, InvalidRequest for a priority that the key has no right to, IdempotencyMismatch
        when the Idempotency-Key came with another body.
        """
        request = submission.request
        ours = {
            "request": encode_request(request),
            "form": json_bytes(submission.form),
            "model": request.model,
            "revision": submission.revision,
            "num_prompt": len(request.prompt_ids),
            "max_tokens": request.sampling.max_tokens,
            "places": request.sampling.n,
            "ttl": min(self.ttl_s, submission.kept_s or self.ttl_s),
            "failure_ttl": self.failure_ttl_s,
            "trace": submission.traceparent,
        }
        idempotency = (
            hashlib.sha256(submission.idempotency_key.encode()).hexdigest() if submission.idempotency_key else ""
        )
        reply = self._scripts.run(
            "submit", request.id, submission.queue, submission.owner, self.max_queue, submission.weight, idempotency,
            submission.body_digest, int(submission.background), math.ceil(submission.deadline_s * 1000), len(ours),
            submission.priority, submission.cost, submission.max_entries, submission.entry_bytes,
            *_flat(ours), *_flat(rq_job),
        )  # fmt: skip
        if reply[0] == b"again":
            return Enqueued(reply[1].decode())
        if reply[0] != b"ok":
            self._refuse(submission, reply)
        return Enqueued(request.id, reply[1], reply[2], Quota(*reply[3:7]))

    def _refuse(self, submission: Submission, reply: Sequence[Any]) -> NoReturn:
        reason = reply[1].decode() if reply[0] == b"limited" else REFUSALS[reply[0]]
        with suppress(RedisError):  # memory may be full
            self.redis.hincrby(metrics_key(submission.queue), f"admissions_refused|{reason}", 1)
        if reply[0] == b"mismatch":
            raise IdempotencyMismatch("This Idempotency-Key was used for another request; send a new key.")
        if reply[0] == b"priority":
            raise InvalidRequest(f"'priority': this key may ask for {reply[1]} or more.", param="priority")
        if reply[0] == b"memory":
            raise Unavailable(NEARLY_FULL, retry_after_s=10)
        if reply[0] == b"evicts":
            raise Unavailable(evicts(reply[1].decode()), retry_after_s=10)
        seconds = self.directory.seconds_per_place(submission.queue)
        if reply[0] == b"full":
            raise Overloaded(
                f"{reply[1]} requests are waiting, which is the most this server takes; try again later.",
                retry_after_s=max(1, round(seconds)),
            )
        self._refuse_by_key(submission, reason, reply, seconds)

    @staticmethod
    def _refuse_by_key(submission: Submission, reason: str, reply: Sequence[Any], seconds: float) -> NoReturn:
        limit, quota = reply[2], Quota(*reply[3:7])
        message = f"This key has reached its limit {reason}, which is {limit}."
        if reason == "tokens_per_minute":
            seconds = (min(submission.cost, limit) - quota.tokens_left) * 60 / limit
        if reason == "max_kept_bytes":
            seconds = max(seconds, reply[8] / 1000)
            message = kept_message(reply[7], limit)
        raise KeyLimited(message, limit=reason, retry_after_s=max(1, math.ceil(seconds)), quota=quota)

    def cancel(
        self, job_id: str, owner: str = "", code: str = "cancelled", message: str = "The job was cancelled."
    ) -> str:
        """Returns the job's state before; '' when it does not exist or is another owner's. '' as owner is the admin."""
        state = self._scripts.run("cancel", job_id, owner, code, message, now_iso(), int(keys.READER_GRACE_S * 1000))
        return state.decode() if state else ""

    def forget(self, job_id: str) -> bool:
        """Delete an ended job and its log before their time; False while it has not ended."""
        return bool(self._scripts.run("forget", job_id))

    def poll(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """The status of each job. Also records that these jobs still have readers."""
        reply = self._scripts.run("poll", *job_ids)
        return [JobStatus(reply[i].decode(), reply[i + 1], reply[i + 2]) for i in range(0, len(reply), 3)]

    def expire(self, queue: str) -> None:
        """End the jobs that are past their deadline or have lost their reader."""
        self._scripts.expire(queue)


def kept_message(kept: int, most: int) -> str:
    """What a key keeps, what it may keep, and how to make room."""
    takes, may = f"take {kept / 2**20:.1f} MiB", f"{most / 2**20:.1f} MiB (max_kept_bytes)"
    make_room = "delete stored responses (DELETE /v1/responses/{id}), or wait until earlier ones expire"
    if kept >= most:
        return f"This key's requests and answers {takes}, and it may keep {may}: {make_room}."
    makes = f"{takes}, and with this one they may take {may}"
    return f"This key's requests and answers {makes}: {make_room}, or ask for less."


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
