"""The API's view of what Redis holds: put a request into the line, look at jobs, read their logs, cancel.

Every change is one Lua script (common/redis/scripts), so a process that dies leaves nothing half-written.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import orjson
from redis import Redis
from redis.exceptions import RedisError

from common.allowance import Allowance, Placed
from common.errors import IdempotencyMismatch, InvalidRequest, KeyLimited, Overloaded, Unavailable
from common.json_bytes import json_bytes
from common.redis import keys
from common.redis.job_view import JobView, views_of
from common.redis.memory import NEARLY_FULL, evicts
from common.redis.metrics import metrics_key
from common.redis.script import Scripts
from common.wire import Event, GenerationRequest, ModelCard, decode_card, decode_event, encode_request

READER_GRACE_S = 30
CANCELLED = "The job was cancelled."
REFUSALS = {
    b"full": "queue_full",
    b"mismatch": "idempotency_mismatch",
    b"priority": "priority",
    b"memory": "memory",
    b"evicts": "maxmemory_policy",
}
ROW_BYTES = 80  # of one token in a log, as Redis keeps it
LOGPROB_BYTES = 40


@dataclass(frozen=True, slots=True)
class Submission:
    """A request and what the queue must know of it."""

    request: GenerationRequest
    queue: str
    owner: str
    revision: str
    form: dict[str, Any]  # how the API words the answer; kept so that any process can word it again
    background: bool = False
    deadline_s: float = 0.0  # 0: none
    idempotency_key: str = ""
    body_digest: str = ""
    weight: float = 1.0
    traceparent: str = ""
    kept_s: int | None = None  # after its end, when that is less than the settings say
    priority: int = 0  # the lower, the earlier; below 0 only as far as the key's rights go
    vector_bytes: int = 0  # of each input's row, when they are embedded

    @property
    def max_rows(self) -> int:
        """The most rows that its log can have; the last one says how it ended."""
        sampling = self.request.sampling
        return sampling.max_tokens * sampling.n + len(self.request.input_lengths) + 1

    @property
    def row_bytes(self) -> int:
        logprobs = self.request.sampling.logprobs
        return ROW_BYTES + self.vector_bytes + (0 if logprobs is None else LOGPROB_BYTES * (1 + logprobs))

    @property
    def cost(self) -> int:
        """The most tokens that this can take; what is not used is given back at the end."""
        sampling = self.request.sampling
        return len(self.request.prompt_ids) + sampling.max_tokens * sampling.n


@dataclass(frozen=True, slots=True)
class Look:
    """One line of look(): enough to know whether a reader has missed anything."""

    state: str
    num_rows: int
    position: int


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a job's log. `attempt` is the fence of the worker that wrote it."""

    seq: int
    event: Event
    attempt: int


def now_iso() -> str:
    """RQ's time format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """All that an API process asks of Redis."""

    def __init__(self, redis: "Redis", *, max_queue: int = 1000, ttl_s: int = 3600, failure_ttl_s: int = 3600) -> None:
        self.redis = redis
        self.max_queue = max_queue
        self.ttl_s = ttl_s
        self.failure_ttl_s = failure_ttl_s
        self._scripts = Scripts(redis)

    def submit(self, submission: Submission, rq_job: Mapping[str, Any]) -> Placed:
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
            submission.priority, submission.cost, submission.max_rows, submission.row_bytes,
            *_flat(ours), *_flat(rq_job),
        )  # fmt: skip
        if reply[0] == b"again":
            return Placed(reply[1].decode())
        if reply[0] != b"ok":
            self._refuse(submission, reply)
        return Placed(request.id, reply[1], reply[2], Allowance(*reply[3:7]))

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
        seconds = self.seconds_per_place(submission.queue)
        if reply[0] == b"full":
            raise Overloaded(
                f"{reply[1]} requests are waiting, which is the most this server takes; try again later.",
                retry_after_s=max(1, round(seconds)),
            )
        self._refuse_by_key(submission, reason, reply, seconds)

    @staticmethod
    def _refuse_by_key(submission: Submission, reason: str, reply: Sequence[Any], seconds: float) -> NoReturn:
        limit, allowance = reply[2], Allowance(*reply[3:7])
        message = f"This key has reached its limit {reason}, which is {limit}."
        if reason == "tokens_per_minute":
            seconds = (min(submission.cost, limit) - allowance.tokens_left) * 60 / limit
        if reason == "max_kept_bytes":
            seconds = max(seconds, reply[8] / 1000)
            message = kept_message(reply[7], limit)
        raise KeyLimited(message, limit=reason, retry_after_s=max(1, math.ceil(seconds)), allowance=allowance)

    def cancel(
        self, job_id: str, owner: str = "", code: str = "cancelled", message: str = "The job was cancelled."
    ) -> str:
        """Returns the job's state before; '' when it does not exist or is another owner's. '' as owner is the admin."""
        state = self._scripts.run("cancel", job_id, owner, code, message, now_iso(), int(READER_GRACE_S * 1000))
        return state.decode() if state else ""

    def forget(self, job_id: str) -> bool:
        """Delete an ended job and its log before their time; False while it has not ended."""
        return bool(self._scripts.run("forget", job_id))

    def look(self, job_ids: Sequence[str]) -> list[Look]:
        """State, log length and position of each job; also says that they still have readers."""
        reply = self._scripts.run("look", *job_ids)
        return [Look(reply[i].decode(), reply[i + 1], reply[i + 2]) for i in range(0, len(reply), 3)]

    def expire(self, queue: str) -> None:
        """End what is past its deadline or has lost its reader."""
        self._scripts.run("expire", queue, READER_GRACE_S * 1000, now_iso())

    def rows(self, job_id: str, after: int = 0, count: int = 512) -> list[Row]:
        """Up to `count` log rows with seq > `after`."""
        entries = self.redis.xrange(keys.log_key(job_id), min=f"({after}-0" if after else "-", count=count)
        return [decode_row(entry_id, fields) for entry_id, fields in entries]

    def job(self, job_id: str) -> JobView | None:
        """The job, or None when there is none (any more)."""
        return views_of(self.redis, [job_id], with_form=True)[0]

    def jobs_of(self, owner: str, limit: int, after: str = "") -> tuple[list[JobView], bool]:
        """A page of the owner's jobs that still exist, without their forms, and whether there are more behind it.

        Those that have not ended come first, the newest first; then the others, the latest to end first. `after` is the
        last job of the page before. Raises InvalidRequest when it is none of the owner's.
        """
        key = keys.own_jobs_key(owner)
        start = 0
        if after:
            place = self.redis.zrevrank(key, after)
            if place is None:
                raise InvalidRequest("'after' is not the id of a job of this key, or no longer.", param="after")
            start = int(place) + 1
        ids = [job_id.decode() for job_id in self.redis.zrevrange(key, start, start + limit)]
        views = views_of(self.redis, ids[:limit], with_form=False)
        return [view for view in views if view is not None], len(ids) > limit

    def request_of(self, job_id: str) -> bytes | None:
        """The stored request (common.wire.decode_request)."""
        raw: bytes | None = self.redis.hget(keys.job_key(job_id), "request")
        return raw

    def queue_of(self, model: str) -> tuple[str | None, str]:
        """The queue that serves this model id and the revision of its weights; (None, "") when nobody does."""
        pipeline = self.redis.pipeline(transaction=False)
        queues, revisions = pipeline.hgetall(keys.QUEUES).hgetall(keys.REVISIONS).execute()
        queue = queues.get(model.encode())
        return (None, "") if queue is None else (queue.decode(), revisions.get(queue, b"").decode())

    def models(self) -> dict[str, str]:
        """Served id -> queue."""
        return {name.decode(): queue.decode() for name, queue in self.redis.hgetall(keys.QUEUES).items()}

    def card(self, queue: str) -> ModelCard | None:
        """What the worker wrote of its model, or None before it has loaded once."""
        raw = self.redis.get(keys.card_key(queue))
        return decode_card(raw) if raw else None

    def workers(self) -> list[dict[str, str]]:
        """The live workers' own words: fence, queue, state, progress, memory, rates, uptime."""
        found = []
        for fence in self.redis.zrange("omni:workers", 0, -1):
            fields = self.redis.hgetall(keys.worker_key(int(fence)))
            if fields:
                found.append({"fence": fence.decode()} | {k.decode(): v.decode() for k, v in fields.items()})
        return found

    def loading(self, queue: str) -> dict[str, str]:
        """How far a worker that is loading has come: what, share; empty when none is loading."""
        return {k.decode(): v.decode() for k, v in self.redis.hgetall(keys.loading_key(queue)).items()}

    def num_waiting(self, queue: str) -> int:
        return int(self.redis.zcard(f"omni:waiting:{queue}"))

    def seconds_per_place(self, queue: str) -> float:
        """How long the line takes to move by one, from the workers' measured rate; 1 s when nothing is known."""
        rate = sum(float(worker.get("jobs_per_s", 0)) for worker in self.workers() if worker.get("queue") == queue)
        return min(60.0, 1 / rate) if rate > 0 else 1.0


def decode_row(entry_id: bytes, fields: dict[bytes, bytes]) -> Row:
    """Raises WireError if the entry is not ours."""
    return Row(int(entry_id.split(b"-")[0]), decode_event(orjson.loads(fields[b"e"])), int(fields.get(b"a", 0)))


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
