"""The caller's own jobs: list, look, cancel."""

import time
from typing import Any

from flask import Blueprint, request

from api.service import Service
from api.serving import owned_job
from common.store import JobView


def job_routes(service: Service) -> Blueprint:
    routes = Blueprint("jobs", __name__)

    @routes.get("/v1/jobs")
    def jobs() -> Any:
        caller = service.keys.caller(request)
        return {"object": "list", "data": [describe(service, job) for job in service.store.jobs_of(caller.owner)]}

    @routes.get("/v1/jobs/<job_id>")
    def job(job_id: str) -> Any:
        return describe(service, owned_job(service, service.keys.caller(request), job_id))

    @routes.delete("/v1/jobs/<job_id>")
    def cancel(job_id: str) -> Any:
        caller = service.keys.caller(request)
        if not caller.is_admin:
            owned_job(service, caller, job_id)
        state = service.store.cancel(job_id)
        return {"id": job_id, "object": "job", "deleted": state in ("queued", "running"), "state_before": state or None}

    return routes


def describe(service: Service, job: JobView) -> dict[str, Any]:
    """State, place in line, estimate and age; never the text."""
    is_waiting = job.state == "queued"
    return {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "model": job.form.get("model"),
        "created": job.created,
        "age_s": round(time.time() - job.created, 3),
        "position": job.position + 1 if is_waiting and job.position >= 0 else None,
        "eta_s": round(max(job.position, 0) * service.hub.seconds_per_place, 1) if is_waiting else None,
        "prompt_tokens": job.num_prompt_tokens,
        "tokens": job.num_tokens,
        "max_tokens": job.max_tokens,
        "code": job.code or None,
    }
