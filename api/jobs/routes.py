"""/v1/jobs: list, inspect and cancel the caller's own jobs."""

import time
from typing import Any

from flask import Blueprint, request

from api.jobs.service import Service
from api.jobs.serving import owned_job
from api.jobs.waiting.place import wait_of
from api.request.pages import list_of, page_size
from api.request.response_meta import job_ids
from common.redis.job_view import JobView


def job_routes(service: Service) -> Blueprint:
    routes = Blueprint("jobs", __name__)

    @routes.get("/v1/jobs")
    def jobs() -> dict[str, Any]:
        caller = service.keys.caller(request)
        found, has_more = service.store.jobs.page(caller.owner, page_size(request), request.args.get("after", ""))
        return list_of([describe(job) for job in found], has_more=has_more)

    @routes.get("/v1/jobs/<job_id>")
    def job(job_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        return describe(owned_job(service, caller, job_id, sees_all=caller.is_admin))

    @routes.delete("/v1/jobs/<job_id>")
    def cancel(job_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        job = owned_job(service, caller, job_id, sees_all=caller.is_admin)
        with service.audit.change(caller, "job.cancel", job_id, of=job.owner):
            states = [service.store.cancel(each) for each in answered_with(job)]
        was_on = [state for state in states if state in ("queued", "running")]
        state = [*was_on, *states][0]
        return {"id": job_id, "object": "job", "deleted": bool(was_on), "state_before": state or None}

    return routes


def answered_with(job: JobView) -> list[str]:
    """The id of the job and, when that is the id of an answer to several prompts, those of the answer's other jobs."""
    return job_ids(job.id, int(job.form.get("num_prompts", 1)) if job.form.get("id") == job.id else 1)


def describe(job: JobView) -> dict[str, Any]:
    """State, place in the queue, forecast and age; no text."""
    return {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "model": job.model,
        "service_tier": job.tier,
        "created": job.created,
        "age_s": round(time.time() - job.created, 3),
        **wait_of(job),
        "prompt_tokens": job.num_prompt_tokens,
        "cached_tokens": job.num_cached_tokens,
        "tokens": job.num_tokens,
        "max_tokens": job.max_tokens,
        "gpu_s": round(job.gpu_s, 6),
        "code": job.code or None,
    }
