"""One attempt: within its time, to the checked address, without redirects, with a bounded answer."""

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from common.webhooks.addresses import AddressRules
from common.webhooks.events import EVENT_TYPES, event_body, sample_data
from common.webhooks.sender import send
from common.webhooks.signatures import new_secret, signed_headers
from tests.receiver import CLOSE, DRIP, DRIP_BODY, HANG, Receiver

HERE = AddressRules.of(["127.0.0.0/8", "::1", "hook.test"])


def test_a_delivery_is_verified_with_each_valid_secret() -> None:
    old, new = new_secret(), new_secret()
    body = event_body("evt_1", 1.5, "batch.completed", {"id": "batch_1"})
    with Receiver() as receiver:
        outcome = send(receiver.url("/a?b=c"), body, signed_headers("evt_1", body, [new, old]), HERE)
        got = receiver.next()
    assert outcome.is_success and outcome.status_code == 200
    assert got.path == "/a?b=c" and got.headers["content-type"] == "application/json"
    for secret in (old, new):
        event = Webhook(secret).verify(got.body, got.headers)
        assert event == {
            "id": "evt_1", "object": "event", "created_at": 1, "type": "batch.completed", "data": {"id": "batch_1"},
        }  # fmt: skip


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_real_client_unwraps_every_event(event_type: str) -> None:
    from openai import OpenAI

    secret = new_secret()
    body = event_body("evt_1", time.time(), event_type, sample_data(event_type))
    headers = signed_headers("evt_1", body, [secret])
    event: Any = OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=secret)
    assert event.type == event_type and event.data.id == sample_data(event_type)["id"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (500, "HTTP 500"),
        (404, "HTTP 404"),
        (302, "HTTP 302: redirects are not followed"),
        (CLOSE, "the connection was closed without an answer"),
    ],
)
def test_an_answer_that_is_no_success_is_named(answer: int, error: str) -> None:
    with Receiver() as receiver:
        receiver.answers["/hook"] = answer
        receiver.extra["Location"] = receiver.url("/elsewhere")
        outcome = send(receiver.url(), b"{}", {}, HERE)
        assert (outcome.error, outcome.status_code) == (error, answer if answer > 0 else None)
        assert len(receiver.all) == 1


@pytest.mark.parametrize("answer", [HANG, DRIP])
def test_a_receiver_that_hangs_or_drips_is_cut_off(answer: int) -> None:
    with Receiver() as receiver:
        receiver.answers["/hook"] = answer
        outcome = send(receiver.url(), b"{}", {}, HERE, timeout_s=0.4)
    assert outcome.error == "no answer within 0.4 s" and outcome.seconds < 2


def test_the_status_decides_and_the_rest_of_a_slow_body_is_not_waited_for() -> None:
    with Receiver() as receiver:
        receiver.answers["/hook"] = DRIP_BODY
        outcome = send(receiver.url(), b"{}", {}, HERE)
    assert outcome.is_success and outcome.seconds < 2


def test_a_port_without_a_listener_is_a_refused_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    assert send(url, b"{}", {}, HERE).error == "connection refused"


def test_an_address_is_checked_at_each_attempt_and_the_checked_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that points to a public address for the check and to loopback for the connection gets nothing."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host != "rebound.test":
            return real(host, *args, **options)
        asked.append(host)
        return real("203.0.113.9" if len(asked) > 1 else "127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with Receiver() as receiver:
        port = receiver.server.server_port
        assert "not public" in send(f"https://rebound.test:{port}/", b"{}", {}, AddressRules()).error
        asked.clear()
        rules = AddressRules.of(["127.0.0.1"])
        outcome = send(f"http://rebound.test:{port}/", b"{}", {}, rules)
        assert outcome.is_success and len(asked) == 1
        assert receiver.next().headers["host"] == f"rebound.test:{port}"


def test_tls_is_checked_against_the_name_not_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The certificate is for hook.test; the connection goes to 127.0.0.1."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hook.test"]
    names = ["-addext", "subjectAltName=DNS:hook.test", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **options: real("127.0.0.1", *args, **options))
    rules = AddressRules.of(["hook.test", "other.test"])
    with Receiver() as receiver:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
        port = receiver.server.server_port
        assert send(f"https://hook.test:{port}/", b"{}", {}, rules).error.startswith("TLS: self")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert send(f"https://hook.test:{port}/", b"{}", {}, rules).is_success
        assert send(f"https://other.test:{port}/", b"{}", {}, rules).error.startswith("TLS: Hostname mismatch")


def test_a_thousand_informational_answers_end_with_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def flood() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    while True:
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                        time.sleep(0.001)
                except OSError:
                    return

        threading.Thread(target=flood, daemon=True).start()
        outcome = send(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, HERE, timeout_s=0.3)
    assert not outcome.is_success and outcome.seconds < 2
