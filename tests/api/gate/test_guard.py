"""Safe by default: keys on every route, hosts, headers, sizes, slow senders, framing."""

import json
import re
import socket

import httpx2
import pytest

from api.app import create_app
from api.gate.body import BODY_DEADLINE_S
from api.gate.guard import allowed_hosts, host_name
from api.server import server_of
from common.settings import read_settings
from tests.service import RunningService

OPEN = {
    "/", "/batches", "/board", "/docs", "/static/<path:name>", "/livez", "/health", "/readyz", "/openapi.json",
    "/api/version",
}  # fmt: skip


@pytest.fixture
def app(valkey_url, redis):
    return create_app(read_settings({"REDIS_URL": valkey_url}))


def test_every_route_but_health_and_the_page_needs_a_key(app):
    client = app.test_client()
    walked = []
    for rule in app.url_map.iter_rules():
        if rule.rule in OPEN:
            continue
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        for method in rule.methods - {"OPTIONS", "HEAD"}:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c2s="}, {"x-api-key": ""}):
                answer = client.open(path, method=method, headers=headers, json={} if method == "POST" else None)
                assert answer.status_code == 401, (method, path, answer.status_code)
                error = answer.get_json()["error"]
                assert isinstance(error, str) if path.startswith("/api/") else error["type"]
            walked.append(f"{method} {rule.rule}")
    assert "POST /v1/chat/completions" in walked and "GET /metrics" in walked and "GET /admin/board" in walked


def test_the_key_is_checked_before_the_body_is_read(service: RunningService):
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.settimeout(5)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw.sendall((head + "Content-Length: 1000000\r\n\r\n").encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]", ""])
def test_a_page_elsewhere_cannot_reach_us_by_a_name_of_its_own(app, host):
    answer = app.test_client().get("/livez", headers={"Host": host})
    assert answer.status_code in (400, 421)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "LocalHost:8000", "127.0.0.1:1", "[::1]:8000"]
)
def test_loopbacks_names_are_ours(app, host):
    assert app.test_client().get("/livez", headers={"Host": host}).status_code == 200


def test_every_answer_carries_the_security_headers_and_an_id(app):
    client = app.test_client()
    for path in ("/livez", "/", "/v1/models", "/nothing"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert "default-src" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
        assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])


def test_a_request_id_is_kept_when_it_is_harmless(app):
    client = app.test_client()
    assert client.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    for bad in ("x" * 65, "a b", "<script>", "\x1b[31m", "é"):
        assert client.get("/livez", headers={"X-Request-Id": bad}).headers["X-Request-Id"] != bad


def raw_status(service, data: bytes) -> int:
    """The status of a raw request, 0 when the connection was simply closed."""
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.settimeout(8)
        raw.sendall(data)
        answer = raw.recv(200)
    return int(answer.split()[1]) if answer else 0


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-local\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("name", "data", "allowed"),
    [
        ("two lengths", HEAD + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", (400,)),
        (
            "length and chunks",
            HEAD + JSON + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (400,),
        ),
        ("two hosts", HEAD + b"Host: evil\r\nContent-Length: 2\r\n\r\n{}", (400, 421)),
        ("a long header", HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", (400, 431)),
        ("many headers", HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(80)) + b"\r\n", (400, 431)),
        ("a long line", b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 414, 431)),
        ("a body over the limit", HEAD + JSON + b"Content-Length: 99999999\r\n\r\n", (413,)),
        ("a bad chunk", HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", (400,)),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", (400, 0)),
        ("another type", HEAD + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", (415,)),
    ],
)
def test_bad_framing_is_refused(service: RunningService, name, data, allowed):
    assert raw_status(service, data) in allowed, name


def test_bytes_that_are_not_http_get_the_error_object_too(service: RunningService):
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 414 " in head and json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_body_that_ends_early_is_refused(service: RunningService):
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(HEAD + JSON + b'Content-Length: 1000\r\n\r\n{"model": "deepseek-v3.2", "messages": []}')
        raw.shutdown(socket.SHUT_WR)
        head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert "ended before its announced length" in json.loads(body)["error"]["message"]


def test_a_body_whose_end_is_unknown_closes_its_connection_and_says_so(service: RunningService):
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n")
        head = raw.makefile("rb").read().partition(b"\r\n\r\n")[0]
    assert b" 400 " in head and b"Connection: close" in head


def test_a_slow_body_is_cut_off_and_does_not_delay_others(service: RunningService):
    drips = []
    for _ in range(50):
        raw = socket.create_connection(("127.0.0.1", service.port))
        raw.sendall(HEAD + JSON + b"Content-Length: 1000\r\n\r\n{")
        drips.append(raw)
    assert httpx2.get(f"{service.url}/livez", timeout=BODY_DEADLINE_S / 2).status_code == 200
    for raw in drips:
        raw.close()


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [
        ("0.0.0.0", "sk-local", True),
        ("0.0.0.0", "own,sk-local", True),
        ("0.0.0.0", "own", False),
        ("127.0.0.1", "sk-local", False),
    ],
)
def test_the_default_key_on_an_open_address_is_warned_of(caplog, host, keys, warns):
    settings = read_settings({"OMNI_HOST": host, "OMNI_API_KEYS": keys})
    with caplog.at_level("WARNING"):
        server_of(settings, is_dashboard=False, listen_fd=None, watch_fd=None)
    assert ("public default" in caplog.text) == warns


def test_an_open_redis_is_warned_of_at_the_start(caplog):
    settings = read_settings({"REDIS_URL": "redis://10.0.0.5"})
    with caplog.at_level("WARNING"):
        server_of(settings, is_dashboard=False, listen_fd=None, watch_fd=None)
    assert "10.0.0.5 without a password" in caplog.text


def answer_to(service: RunningService, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.settimeout(5)
        raw.sendall(request)
        return raw.recv(4096)


def test_http_1_1_without_a_host_is_refused_and_1_0_is_not(service: RunningService):
    assert answer_to(service, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert b" 200 " in answer_to(service, b"GET /livez HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "deflate,chunked", "GZIP, Chunked", "identity, chunked", "br, chunked"]
)
def test_a_transfer_coding_that_is_not_undone_is_refused(service: RunningService, coding: str):
    body = b'{"model": "omni-demo", "messages": [{"role": "user", "content": "Hi"}]}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-local\r\n"
        f"Content-Type: application/json\r\nTransfer-Encoding: {coding}\r\n\r\n"
    )
    answer = answer_to(service, head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 501")


def test_hosts_are_named_in_any_case():
    hosts = allowed_hosts(read_settings({"OMNI_CORS_ORIGINS": "https://Example.ORG:8443"}))
    assert host_name("EXAMPLE.org:8000") in hosts and host_name("localhost:8000") in hosts
    assert "evil.example" not in hosts


def test_any_host_is_answered_off_loopback():
    assert not allowed_hosts(read_settings({"OMNI_HOST": "0.0.0.0"}))


@pytest.mark.parametrize("origins", ["*", "*,https://chat.example"])
def test_on_loopback_a_star_lets_every_page_call_but_adds_no_host(origins):
    hosts = allowed_hosts(read_settings({"OMNI_CORS_ORIGINS": origins}))
    assert hosts - {"127.0.0.1", "localhost", "::1"} == ({"chat.example"} if "chat" in origins else set())


def test_slow_small_bodies_of_unknown_size_keep_no_caller_out(service: RunningService):
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-local\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    slow = [socket.create_connection(("127.0.0.1", service.port), 5) for _ in range(40)]
    try:
        for caller in slow:
            caller.sendall(head.encode())
        with service.http() as http:
            assert http.post("/v1/chat/completions", json={"model": "none", "messages": []}).status_code == 400
        for caller in slow:
            caller.sendall(b"1\r\n}\r\n0\r\n\r\n")
        assert {caller.recv(12)[-3:] for caller in slow} == {b"400"}
    finally:
        for caller in slow:
            caller.close()
