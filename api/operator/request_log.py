"""Access log, request counter and rate-limit headers. Logs neither prompts nor keys."""

import logging
import time
from typing import Any

from flask import Flask, Response, g, request

from api.gate import notes
from api.gate.rate_headers import queue_headers, rate_headers
from api.jobs.service import Service

logger = logging.getLogger("omni.api")

SILENT = frozenset(
    {"GET", "HEAD", "OPTIONS"}
)  # logged with OMNI_LOG_LEVEL=debug, or when they fail: polling would fill the log
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
        line = RequestLine(service, route, response.status_code)
        if response.is_streamed:
            response.call_on_close(line.write)
        else:
            line.write()
        return response


class RequestLine:
    """One line per request, when its answer has ended: of a stream with the stream."""

    def __init__(self, service: Service, route: str, status: int) -> None:
        self.method, self.route, self.status = request.method, route, status
        self._keys = service.keys
        self._owner: str = g.get("owner", "")
        self._ids = notes.ids()
        self._heard = notes.heard() if status < 400 else None
        self._began: float = g.get("began") or time.monotonic()

    @property
    def level(self) -> int:
        if self.status >= 500 and self.route not in PROBES:
            return logging.WARNING
        return logging.DEBUG if self.method in SILENT else logging.INFO

    def fields(self) -> dict[str, Any]:
        known: dict[str, Any] = {"method": self.method, "route": self.route, "status": self.status}
        if self._owner:
            known["key"] = self._keys.name_of(self._owner)
        if (heard := self._heard) is not None:
            known |= {"prompt_tokens": heard.prompt_tokens, "cached_tokens": heard.cached_tokens}
            known |= {"completion_tokens": heard.num_written, "end": heard.end}
            if heard.first_token:
                known["ttft_ms"] = milliseconds(heard.first_token - self._began)
        return self._ids | known | {"ms": milliseconds(time.monotonic() - self._began)}

    def write(self) -> None:
        if not logger.isEnabledFor(self.level):
            return
        fields = self.fields()
        words = [
            self.method,
            self.route,
            str(self.status),
            *(fields[name] for name in ("job_id", "key") if name in fields),
        ]
        if self._heard is not None:
            words += [f"{self._heard.prompt_tokens}+{self._heard.num_written} tokens", self._heard.end]
        text = " ".join(words)
        logger.log(self.level, "%s, %s ms", text, fields["ms"], extra={"fields": fields})


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
