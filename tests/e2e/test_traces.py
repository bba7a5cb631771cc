"""A request's spans reach an OTLP receiver, in one trace: the caller's."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from common.settings import read_settings
from common.tracing import traces_of
from tests.service import RunningService

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector():
    """Receives OTLP over HTTP; yields (endpoint, spans)."""
    messages = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="opentelemetry is not installed"
    )
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="no OTLP exporter")
    spans = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def test_a_job_is_one_trace_from_the_caller_to_the_last_token(collector, tmp_path):
    endpoint, spans = collector
    with RunningService(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as running:
        running.start()
        with running.http() as http:
            body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
            headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            job_id = http.post("/v1/chat/completions", json=body, headers=headers).json()["id"]
        deadline = time.monotonic() + 15
        while len(spans) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
    found = {span.name: span for span in spans}
    assert set(found) == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    root = found["POST /v1/chat/completions"]
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert all(found[name].parent_span_id == root.span_id for name in ("queue", "prefill", "decode"))
    order = [found[name] for name in ("queue", "prefill", "decode")]
    assert all(one.end_time_unix_nano <= next.start_time_unix_nano for one, next in zip(order, order[1:], strict=False))
    values = {item.key: item.value for item in found["decode"].attributes}
    assert values["gen_ai.usage.output_tokens"].int_value == 5 and values["omni.job_id"].string_value == job_id


def test_traces_are_off_by_default():
    assert traces_of(read_settings({}), "api") is None
