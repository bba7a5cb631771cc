"""/v1/jobs: list, inspect and cancel the caller's own jobs."""

import time
from typing import Any

from flask import Blueprint, Request, request

from api.jobs.service import Service
from api.jobs.serving import owned_job
from common.errors import InvalidRequest
from common.redis.job_view import JobView

DEFAULT_PAGE = 20
MAX_PAGE = 100


def job_routes(service: Service) -> Blueprint:
    routes = Blueprint("jobs", __name__)

    @routes.get("/v1/jobs")
    def jobs() -> dict[str, Any]:
        caller = service.keys.caller(request)
        found, has_more = service.store.jobs.page(caller.owner, page_size(request), request.args.get("after", ""))
        return {
            "object": "list",
            "data": [describe(service, job) for job in found],
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
            "has_more": has_more,
        }

    @routes.get("/v1/jobs/<job_id>")
    def job(job_id: str) -> dict[str, Any]:
        return describe(service, owned_job(service, service.keys.caller(request), job_id))

    @routes.delete("/v1/jobs/<job_id>")
    def cancel(job_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        if not caller.is_admin:
            owned_job(service, caller, job_id)
        state = service.store.cancel(job_id)
        return {"id": job_id, "object": "job", "deleted": state in ("queued", "running"), "state_before": state or None}

    return routes


def page_size(request: Request) -> int:
    """The query's `limit`. Raises InvalidRequest."""
    limit = request.args.get("limit", DEFAULT_PAGE, type=int)
    if not 1 <= limit <= MAX_PAGE or (request.args.get("limit") or str(limit)) != str(limit):
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return limit


def describe(service: Service, job: JobView) -> dict[str, Any]:
    """State, position in the queue, estimate and age; no text."""
    is_waiting = job.state == "queued"
    return {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "model": job.model,
        "created": job.created,
        "age_s": round(time.time() - job.created, 3),
        "position": job.position + 1 if is_waiting and job.position >= 0 else None,
        "eta_s": round(max(job.position, 0) * service.hub.seconds_per_place, 1) if is_waiting else None,
        "prompt_tokens": job.num_prompt_tokens,
        "tokens": job.num_tokens,
        "max_tokens": job.max_tokens,
        "code": job.code or None,
    }
