"""Where a job stands, for a body."""

from typing import Any

from common.redis.job_view import JobView


def wait_of(job: JobView | None) -> dict[str, Any]:
    """Seconds, unix times. None: it has no such value.

    `position`: 1 is next, 0 has left the queue and is being started. `paused`: its answer has begun and waits to go on.
    """
    is_starting = bool(job and job.state == "running" and not job.num_tokens)
    return {
        "position": 0 if is_starting else job.position + 1 if job and job.position >= 0 else None,
        "eta_s": round(job.eta_s, 1) if job and job.eta_s >= 0 else None,
        "scheduled_for": job.not_before if job and job.is_scheduled else None,
        "deadline": job.deadline or None if job else None,
        "service_tier": job.tier if job else None,
        "model_status": job.model_status if job else None,
        "paused": bool(job and job.state == "queued" and job.num_tokens),
    }
