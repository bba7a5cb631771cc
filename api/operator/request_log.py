"""Access log, request counter and rate-limit headers. Logs neither prompts nor keys."""

import logging
import time

from flask import Flask, Response, g, request

from api.gate import notes
from api.gate.rate_headers import queue_headers, rate_headers
from api.jobs.service import Service

logger = logging.getLogger("omni.api")

SILENT = frozenset({"GET", "HEAD", "OPTIONS"})  # not logged unless they fail: polling would fill the log
PROBES = frozenset({"/health", "/readyz"})


class RequestFields(logging.Filter):
    """Adds the current request's ids to every log line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if ids := notes.ids():
            record.fields = ids | getattr(record, "fields", {})
        return True


def install_request_log(app: Flask, service: Service) -> None:
    for handler in logging.getLogger().handlers:
        if not any(isinstance(item, RequestFields) for item in handler.filters):
            handler.addFilter(RequestFields())

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()

    @app.after_request
    def note(response: Response) -> Response:
        if (enqueued := notes.enqueued()) and enqueued.quota:
            max_queue = service.settings.limits.max_queue
            response.headers.update(rate_headers(enqueued.quota, enqueued.num_waiting, max_queue, enqueued.place_s))
            response.headers.update(queue_headers(enqueued) if enqueued.job_id else {})
        route = request.url_rule.rule if request.url_rule is not None else "none"
        service.tally.add(
            f"http_requests|{request.method if request.url_rule else 'other'} {route} {response.status_code}"
        )
        if request.method not in SILENT or (response.status_code >= 500 and route not in PROBES):
            write_line(route, response.status_code)
        return response


def write_line(route: str, status: int) -> None:
    """Write one line per request, when its headers are ready; a stream goes on after that."""
    level = logging.WARNING if status >= 500 else logging.INFO
    milliseconds = round((time.monotonic() - g.get("began", time.monotonic())) * 1000, 1)
    fields = {"route": route, "status": status, "ms": milliseconds}
    job = f" {g.job_id}" if g.get("job_id") else ""
    logger.log(level, "%s %s %d%s", request.method, route, status, job, extra={"fields": fields})
