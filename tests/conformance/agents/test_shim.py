"""The proxy in front of the agents: what it changes, and that it changes nothing else."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from tests.conformance.agents.shim import ForcedCall, ForcedFields, ForcedInput, Shim

CALL = ForcedCall("read", {"path": {"const": "/note.txt"}})
SCHEMA = {
    "type": "object",
    "properties": {"path": {"const": "/note.txt"}},
    "required": ["path"],
    "additionalProperties": False,
}


class Echo(BaseHTTPRequestHandler):
    """Answers with the body that came; /slow never ends."""

    left = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
        try:
            while self.path == "/slow":
                self.wfile.write(b": waiting\n\n")
        except OSError:
            self.left.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shim() -> Iterator[Shim]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Shim(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("tool", "choice", "key"),
    [
        (
            {"type": "function", "function": {"name": "read"}},
            {"type": "function", "function": {"name": "read"}},
            "parameters",
        ),
        ({"type": "function", "name": "read"}, {"type": "function", "name": "read"}, "parameters"),
        ({"name": "read", "input_schema": {}}, {"type": "tool", "name": "read"}, "input_schema"),
    ],
    ids=["chat", "responses", "messages"],
)
def test_a_forced_call_is_written_in_the_request_s_own_dialect(
    tool: dict[str, Any], choice: dict[str, Any], key: str
) -> None:
    request = {"model": "m", "tools": [{"type": "function", "name": "other"}, tool]}
    assert CALL.change(request)
    assert request["tool_choice"] == choice and tool.get("function", tool)[key] == SCHEMA
    assert request["tools"][0] == {"type": "function", "name": "other"}


def test_a_request_without_the_tool_stays_as_it_is() -> None:
    for request in ({"tools": [{"type": "function", "name": "other"}]}, {"messages": []}):
        before = json.dumps(request)
        assert not CALL.change(request) and not ForcedInput("patch", "a").change(request)
        assert json.dumps(request) == before


def test_bodies_pass_byte_for_byte_and_one_is_changed_where_something_is_forced(shim: Shim) -> None:
    body = b'{ "model":"m",  "messages": []}'
    assert httpx2.post(f"{shim.url}/v1/x", content=body).content == body
    shim.forced = ForcedFields({"ignore_eos": True})
    assert httpx2.post(f"{shim.url}/v1/x", content=body).json() == {"model": "m", "messages": [], "ignore_eos": True}
    assert httpx2.post(f"{shim.url}/v1/x", content=body).content == body
    assert [exchange.is_forced for exchange in shim.exchanges] == [False, True, False]


def test_an_agent_that_leaves_is_seen_by_the_service(shim: Shim) -> None:
    Echo.left.clear()
    with httpx2.stream("POST", f"{shim.url}/slow", content=b"{}") as answer:
        next(answer.iter_raw())
    assert Echo.left.wait(10)


def test_other_hosts_are_refused_and_remembered(shim: Shim) -> None:
    with httpx2.Client(proxy=shim.url) as client:
        assert client.get("http://telemetry.example/collect").status_code == 403
    assert shim.foreign_hosts == ["http://telemetry.example/collect"]
