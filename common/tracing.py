"""OpenTelemetry spans if OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise its packages are not imported.

The queue, prefill and decode spans of a job are made after its end, from the times in its hash, so they are right for
a job that went through several workers too.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from common.setting_types import is_url
from common.settings import Settings

logger = logging.getLogger("omni")

SERVICE_NAME = "protocol-omni"
Attributes = Mapping[str, str | int | float]


class Traces:
    """Creates spans and sends them to a collector in the background."""

    def __init__(self, endpoint: str, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": SERVICE_NAME, "omni.process": process})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("omni")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, traceparent: str, attributes: Attributes) -> tuple[Any, str]:
        """A span that begins now (call its `end()`), and the traceparent for its children."""
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(name, context=self._context(traceparent), attributes=dict(attributes))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return span, carrier.get("traceparent", "")

    def add(self, name: str, traceparent: str, begin_ms: int, end_ms: int, attributes: Attributes) -> None:
        """Record a span that has ended."""
        context = self._context(traceparent)
        span = self._tracer.start_span(name, context, start_time=begin_ms * 10**6, attributes=dict(attributes))
        span.end(end_time=max(begin_ms, end_ms) * 10**6)

    def flush(self) -> None:
        self._provider.force_flush()

    def _context(self, traceparent: str) -> Any:
        return self._propagator.extract({"traceparent": traceparent} if traceparent else {})


def traces_of(settings: Settings, process: str) -> Traces | None:
    """None if traces are off, or cannot be made: the machine may export the name for other programs."""
    endpoint = settings.operator.traces_endpoint
    if not endpoint:
        return None
    if not (endpoint.startswith(("http://", "https://")) and is_url(endpoint)):
        logger.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is not an address such as http://127.0.0.1:4318")
        return None
    if not has_opentelemetry():
        logger.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is missing; run `make traces`")
        return None
    return Traces(endpoint, process)


def has_opentelemetry() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
