"""A caller that closes its sending half still reads; one that closes both halves has disconnected."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.client import chat
from tests.chaos.fake_worker import expected_text, fake_load
from tests.chaos.harness import Harness, Options, running, wait_until
from worker.jobs.ledger import Ledger

pytestmark = pytest.mark.timeout(120)
both = pytest.mark.parametrize("stream", [True, False])
NOTICED_S = 4.0  # the last of the first looks comes after 3 s


@pytest.fixture(scope="module")
def stage() -> Iterator[Harness]:
    """A worker for the model `fake`; the model `idle` has none."""
    with running(Options(step_s=0.02, through_proxy=False)) as harness:
        Ledger(harness.redis, "idle", "nobody").publish_card(fake_load("", ("idle",), None, None).card)
        yield harness


def ask(stage: Harness, body: dict[str, Any], version: str = "1.1", *, is_last: bool = True) -> socket.socket:
    """Send a request; the last one on a connection also closes the sending half."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", stage.port))
    connection.settimeout(30)
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-chaos\r\n"
    head += f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    if is_last:
        connection.shutdown(socket.SHUT_WR)
    return connection


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def job_of(stage: Harness, seed: int) -> str:
    """The id of the job with this seed, once it is there."""

    def found() -> str:
        for key in stage.redis.scan_iter("omni:job:*"):
            if json.loads(stage.redis.hget(key, "request") or b"{}").get("sampling", {}).get("seed") == seed:
                return str(key.decode().removeprefix("omni:job:"))
        return ""

    wait_until(lambda: bool(found()), 30)
    return found()


@both
def test_a_half_closed_caller_gets_its_answer(stage: Harness, stream: bool) -> None:
    with ask(stage, chat(11, 60, stream=stream)) as connection:  # more than a second's worth
        answer = read_all(connection).decode()
    interim = "HTTP/1.1 100 Continue\r\n\r\n"
    while answer.startswith(interim):
        answer = answer.removeprefix(interim)
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    if stream:
        assert "data: [DONE]\n\n" in answer and answer.endswith("\r\n0\r\n\r\n")
    else:
        body = json.loads(answer.partition("\r\n\r\n")[2])
        assert body["choices"][0]["message"]["content"] == expected_text(11, 60)


@both
@pytest.mark.parametrize("model", ["fake", "idle"])
def test_a_half_closed_caller_that_disconnects_is_noticed(stage: Harness, stream: bool, model: str) -> None:
    seed = 20 + 2 * stream + (model == "idle")
    with ask(stage, chat(seed, 5000, stream=stream, model=model)):
        job_id = job_of(stage, seed)
    wait_until(lambda: stage.state(job_id) == "cancelled", NOTICED_S + 4)
    assert stage.job(job_id)["code"] == "client_gone"


def test_a_caller_that_disconnects_after_part_of_a_next_request_is_noticed(stage: Harness) -> None:
    with ask(stage, chat(40, 5000), is_last=False) as connection:
        job_id = job_of(stage, 40)
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        with pytest.raises(TimeoutError):
            connection.settimeout(0.5)
            connection.recv(1)  # nothing is said to who may still read
    wait_until(lambda: stage.state(job_id) == "cancelled", NOTICED_S + 4)


def test_over_http_1_0_a_half_close_is_a_disconnect(stage: Harness) -> None:
    with ask(stage, chat(30, 5000), version="1.0"):
        wait_until(lambda: stage.state(job_of(stage, 30)) == "cancelled", NOTICED_S + 4)
