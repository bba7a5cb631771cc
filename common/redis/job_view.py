"""A job as its owner may see it. Only these fields of its hash are read: its request may be megabytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from redis import Redis

from common.errors import InvalidRequest
from common.redis import keys
from common.redis.keys import JobField
from common.wire import JobState

SHOWN: tuple[JobField, ...] = (
    *("state", "queue", "owner", "model", "member", "created", "first_claimed", "ended", "num_prompt", "tokens"),
    *("max_tokens", "code", "crashes", "cancel"),
)


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
    position: int  # in the queue, 0 is next; -1 when it does not wait
    code: str
    crashes: int
    cancel_code: str = ""  # why it was asked to end, also while its worker has not ended it
    form: dict[str, Any] = field(default_factory=dict)  # empty in a list of jobs


class Jobs:
    """Looks jobs up. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def get(self, job_id: str) -> JobView | None:
        """The job, or None when it does not exist (any more)."""
        return views_of(self._redis, [job_id], with_form=True)[0]

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
        views = views_of(self._redis, ids[:limit], with_form=False)
        return [view for view in views if view is not None], len(ids) > limit


def views_of(redis: "Redis", job_ids: Sequence[str], *, with_form: bool) -> list[JobView | None]:
    """One view per id, None for a job that does not exist (any more)."""
    names: tuple[JobField, ...] = (*SHOWN, "form") if with_form else SHOWN
    found = redis.pipeline(transaction=False)
    for job_id in job_ids:
        found.hmget(keys.job_key(job_id), *names)
    jobs = [dict(zip(names, values, strict=True)) for values in found.execute()]
    positions = _positions(redis, jobs)
    return [
        None if job["state"] is None else _view(job_id, job, positions.get(number, -1))
        for number, (job_id, job) in enumerate(zip(job_ids, jobs, strict=True))
    ]


def _positions(redis: "Redis", jobs: Sequence[Mapping[str, bytes | None]]) -> dict[int, int]:
    """The queue positions of waiting jobs, by the job's index in the list."""
    waiting = [number for number, job in enumerate(jobs) if job["state"] == b"queued"]
    if not waiting:
        return {}
    places = redis.pipeline(transaction=False)
    for number in waiting:
        queue, member = jobs[number]["queue"] or b"", jobs[number]["member"] or b""
        places.zrank(keys.waiting_key(queue.decode()), member)
    ranks = zip(waiting, places.execute(), strict=True)
    return {number: int(rank) for number, rank in ranks if rank is not None}


def _view(job_id: str, fields: Mapping[str, bytes | None], position: int) -> JobView:
    def number(name: JobField) -> int:
        return int(fields[name] or 0)

    def text(name: JobField) -> str:
        return (fields[name] or b"").decode()

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
        position=position,
        code=text("code"),
        crashes=number("crashes"),
        cancel_code=orjson.loads(fields["cancel"] or b"{}").get("code", ""),
        form=orjson.loads(fields.get("form") or b"{}"),
    )
