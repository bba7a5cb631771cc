"""A job as its owner may see it. Only these fields of its hash are read: its request may be megabytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from redis import Redis

from common.errors import InvalidRequest
from common.redis import keys
from common.redis.keys import JobField
from common.redis.script import Scripts
from common.redis.served.shelf import ModelStatus, ShelfEntry, ShelfStore, nearest
from common.wire import JobState, Tier

SHOWN: tuple[JobField, ...] = (
    *("state", "queue", "owner", "model", "member", "created", "first_claimed", "ended", "num_prompt", "tokens"),
    *("max_tokens", "code", "crashes", "cancel", "tier", "not_before", "deadline", "cached", "gpu_us"),
)


@dataclass(frozen=True, slots=True)
class Outlook:
    """When a queued job will start."""

    position: int = -1  # in the queue, 0 is next; -1 when it does not wait there
    eta_s: float = -1.0  # until its first token; -1 when it does not wait, or nothing is known
    not_before: float = 0.0  # unix time before which it is not admitted; 0 when it need not wait for that


UNKNOWN = Outlook()


def eta_s_of(eta_ms: int) -> float:
    """A script's forecast in seconds; -1 for none."""
    return eta_ms / 1000 if eta_ms >= 0 else -1.0


def written_time(seconds: float) -> str:
    """Unix seconds -> 2026-11-27T08:00:00Z, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class JobView:
    """Times are unix seconds, 0 when not yet."""

    id: str
    state: JobState
    queue: str
    owner: str
    model: str  # the served id that was asked for
    created: float
    claimed: float
    ended: float
    num_prompt_tokens: int
    num_tokens: int
    max_tokens: int
    position: int  # in the queue, 0 is next; -1 when it does not wait there
    code: str
    crashes: int
    eta_s: float = -1.0  # until its first token; -1 when it does not wait, or nothing is known
    is_scheduled: bool = False  # it waits for its `not_before`
    tier: Tier = "default"
    not_before: float = 0.0
    deadline: float = 0.0
    num_cached_tokens: int = 0  # of the prompt's
    gpu_s: float = 0.0  # its share of the device's time
    model_status: ModelStatus | None = None  # of a queued job's model, where its worker has several
    cancel_code: str = ""  # why it was asked to end, also while its worker has not ended it
    form: dict[str, Any] = field(default_factory=dict)  # empty in a list of jobs


class Jobs:
    """Looks jobs up. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis", scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def get(self, job_id: str) -> JobView | None:
        """The job, or None when it does not exist (any more)."""
        return self._views([job_id], with_form=True)[0]

    def state(self, job_id: str) -> str:
        """'' when the job does not exist (any more)."""
        return (self._redis.hget(keys.job_key(job_id), "state") or b"").decode()

    def page(self, owner: str, limit: int, after: str = "") -> tuple[list[JobView], bool]:
        """A page of the owner's jobs that still exist, without their forms, and whether more follow.

        Jobs that have not ended come first, the newest first; then the others, the latest to end first. `after` is the
        last job of the page before. Raises InvalidRequest when it is none of the owner's.
        """
        key = keys.OWN_JOBS + owner
        start = 0
        if after:
            place = self._redis.zrevrank(key, after)
            if place is None:
                raise InvalidRequest("'after' is not the id of a job of this key, or no longer.", param="after")
            start = int(place) + 1
        ids = [job_id.decode() for job_id in self._redis.zrevrange(key, start, start + limit)]
        views = self._views(ids[:limit], with_form=False)
        return [view for view in views if view is not None], len(ids) > limit

    def _views(self, job_ids: Sequence[str], *, with_form: bool) -> list[JobView | None]:
        """One view per id, None for a job that does not exist (any more)."""
        names: tuple[JobField, ...] = (*SHOWN, "form") if with_form else SHOWN
        found = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            found.hmget(keys.job_key(job_id), *names)
        jobs = [dict(zip(names, values, strict=True)) for values in found.execute()]
        queued = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if job["state"] == b"queued"]
        outlooks = self.outlooks(queued)
        shelf = nearest(ShelfStore(self._redis).reports()) if queued else {}
        return [
            None if job["state"] is None else _view(job_id, job, outlooks.get(job_id, UNKNOWN), shelf)
            for job_id, job in zip(job_ids, jobs, strict=True)
        ]

    def outlooks(self, job_ids: Sequence[str]) -> dict[str, Outlook]:
        """When each of these jobs will start, and its place in the queue."""
        found = self._scripts.run("forecast", *job_ids) if job_ids else []
        return {
            job_id: Outlook(position, eta_s_of(eta_ms), not_before / 1000)
            for job_id, (position, eta_ms, not_before) in zip(job_ids, found, strict=True)
        }


def _view(
    job_id: str, fields: Mapping[str, bytes | None], outlook: Outlook, shelf: Mapping[str, ShelfEntry]
) -> JobView:
    def number(name: JobField) -> int:
        return int(fields[name] or 0)

    def text(name: JobField) -> str:
        return (fields[name] or b"").decode()

    entry = shelf.get(text("queue")) if text("state") == "queued" else None
    return JobView(
        id=job_id,
        state=cast(JobState, text("state")),
        queue=text("queue"),
        owner=text("owner"),
        model=text("model"),
        created=number("created") / 1000,
        claimed=number("first_claimed") / 1000,
        ended=number("ended") / 1000,
        num_prompt_tokens=number("num_prompt"),
        num_tokens=number("tokens"),
        max_tokens=number("max_tokens"),
        position=outlook.position,
        eta_s=outlook.eta_s,
        is_scheduled=outlook.not_before > 0,
        not_before=number("not_before") / 1000,
        deadline=number("deadline") / 1000,
        code=text("code"),
        crashes=number("crashes"),
        tier=cast(Tier, text("tier") or "default"),
        num_cached_tokens=number("cached"),
        gpu_s=number("gpu_us") / 1e6,
        model_status=None if entry is None else entry.status,
        cancel_code=orjson.loads(fields["cancel"] or b"{}").get("code", ""),
        form=orjson.loads(fields.get("form") or b"{}"),
    )
