"""/livez, /readyz and /health: for probes, without a key."""

import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint

from api.jobs.service import Service
from common import __version__
from common.redis.served.shelf import ShelfEntry
from common.redis.server import memory_of


def health_routes(service: Service) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/health")
    @routes.get("/readyz")
    def health() -> tuple[dict[str, Any], int]:
        return health_of(service)

    return routes


def health_of(service: Service) -> tuple[dict[str, Any], int]:
    """The four documented keys, our version and, while no worker is ready (503), `progress`.

    `models`: where the models of a table are. Its worker is ready once it takes their jobs, whatever is loaded.
    """
    table = {model.queue for model in service.settings.models}
    queues = table or {service.queue}
    workers = [worker for worker in service.store.directory.workers() if worker.get("queue") in queues]
    entries = service.models.shelf.entries() if table else {}
    ready = [worker for worker in workers if worker.get("state") == "ready" or entries]
    is_away = not ready and any(worker.get("state") == "away" for worker in workers)
    used = sum(int(worker.get("memory_used", 0)) for worker in ready if worker.get("device", "").startswith("cuda"))
    body: dict[str, Any] = {
        "status": "healthy" if ready else "engine away" if is_away else "loading",
        "model": model_named(service, entries),
        "gpu_memory_used": f"{round(used / 2**30)}GB",
        "uptime_seconds": round(max((time.time() - float(w["started"]) for w in ready if "started" in w), default=0)),
        "version": __version__,
    }
    if table:
        body["models"] = {queue: entries[queue].status for queue in sorted(table & entries.keys())}
        body["gpu_memory_used"] = f"{round(gpu_bytes(service) / 2**30)}GB"
    if fault := memory_of(service.store.redis).fault:
        return body | {"status": "unhealthy", "progress": {"what": fault}}, 503
    if is_away:
        body["progress"] = {"what": "waiting for the engine behind the worker; jobs are kept and go on"}
    elif not ready:
        body["progress"] = service.store.directory.loading(service.queue) or {"what": "waiting for a worker"}
    return body, 200 if ready else 503


def model_named(service: Service, entries: Mapping[str, ShelfEntry]) -> str:
    """Of a table the first model that is served; before a worker has told, or if none is, the first."""
    table = [model.queue for model in service.settings.models]
    served = (queue for queue in table if queue in entries and entries[queue].is_served)
    return next(served, service.queue)


def gpu_bytes(service: Service) -> int:
    """Of the models of all shelves that are on a GPU."""
    reports = service.models.shelf.reports()
    return sum(report.used_bytes for report in reports if report.device.startswith("cuda"))
