"""submit(submission) -> a job in the queue. The only file of the API that builds RQ jobs."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from api.request.response_meta import job_ids
from common.errors import Unavailable
from common.quota import Enqueued
from common.redis import keys
from common.redis.connection import is_passing
from common.redis.rq_seams import now_iso
from common.redis.store import Store
from common.redis.submission import Submission


def rq_job(redis: "Redis", job_id: str, queue: str) -> dict[str, Any]:
    """RQ's own record of the job. Holds its id, and no text of the user."""
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
    """Enqueue the jobs of one answer, all or none. The result has the answer's id, an older one for a known key.

    An older answer may lack jobs, if a process died between two of them; these are enqueued now.
    """
    first = submissions[0].request.id
    first_enqueued = enqueued = submit(store, submissions[0])
    answer_id = enqueued.job_id
    ids = job_ids(answer_id, len(submissions))
    try:
        for job_id, submission in zip(ids[1:], submissions[1:], strict=True):
            request = replace(submission.request, id=job_id)
            enqueued = submit(store, replace(submission, request=request, form=submission.form | {"id": answer_id}))
    except BaseException:
        if answer_id == first:
            for job_id in ids:
                with suppress(RedisError):  # the first failure is the one that is told
                    store.cancel(job_id, message="Not all prompts of the request could be queued.")
        raise
    return replace(enqueued, job_id=answer_id, position=first_enqueued.position, eta_s=first_enqueued.eta_s)


def unavailable(error: RedisError) -> Unavailable:
    """The 503 for a Redis that is away or full. Raises the error itself if waiting would not cure it."""
    if not is_passing(error):
        raise error
    return Unavailable("Redis cannot take requests now (it is away, loading or full); try again soon.")
