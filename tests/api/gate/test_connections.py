"""An address has its share of the connections and no more; loopback is not counted."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import openai
import psutil
import pytest

from api.gate.connections import Connections, network_of
from tests.chaos.harness import wait_until
from tests.service import RunningService

LIMIT = 4


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("9.9.9.9", 4711), "9.9.9.9"),
        (("::ffff:9.9.9.9", 4711, 0, 0), "9.9.9.9"),
        (("2620:fe:1:2:3:4:5:6", 4711, 0, 0), "2620:fe:1:2::/64"),
        (("2620:fe:1:2::ffff", 4711, 0, 0), "2620:fe:1:2::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (("172.17.0.1", 4711), "172.17.0.1"),
        (("127.0.0.1", 4711), ""),
        (("127.9.9.9", 4711), ""),
        (("::1", 4711, 0, 0), ""),
        (("::ffff:127.0.0.1", 4711, 0, 0), ""),
        ("", ""),
        (b"", ""),
    ],
)
def test_a_peer_is_counted_under_its_network(peer: object, network: str) -> None:
    assert network_of(peer) == network


def test_one_address_cannot_take_anothers_share(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections(2)
    assert [connections.enter("a") for _ in range(4)] == [True, True, False, False]
    assert connections.enter("b") and all(connections.enter("") for _ in range(9))
    assert len(caplog.records) == 1, "one line for an address, not one for each connection"
    connections.leave("a")
    assert [connections.enter("a") for _ in range(2)] == [True, False]
    for network in ("a", "a", "b", ""):
        connections.leave(network)
    assert not connections._open and not connections._warned, "closed connections are remembered"


def test_without_a_limit_nothing_is_counted() -> None:
    connections = Connections(0)
    assert all(connections.enter("a") for _ in range(9))
    connections.leave("a")


@pytest.fixture(scope="module")
def address() -> str:
    """One of this machine's that is not loopback: who calls it comes from it."""
    found = [
        part.address for parts in psutil.net_if_addrs().values() for part in parts if part.family == socket.AF_INET
    ]
    outside = [name for name in found if not name.startswith("127.")]
    return outside[0] if outside else pytest.skip("this machine has no address but loopback")


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory, address: str) -> Iterator[RunningService]:
    """API and Redis, reached from outside."""
    settings = {"OMNI_HOST": "0.0.0.0", "OMNI_API_KEYS": "own", "OMNI_MAX_CONNECTIONS_PER_ADDRESS": str(LIMIT)}
    with RunningService(tmp_path_factory.mktemp("open"), settings) as running:
        running.start("redis", "api")
        wait_until(lambda: raw_answer(("127.0.0.1", running.port)).startswith(b"HTTP/1.1 200"), 60, "the API")
        yield running


GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def raw_answer(peer: tuple[str, int], stack: ExitStack | None = None) -> bytes:
    """The first bytes of the answer; the connection stays open as long as the stack."""
    raw = socket.create_connection(peer, timeout=10)
    with raw if stack is None else ExitStack():
        if stack is not None:
            stack.enter_context(raw)
        raw.sendall(GET)
        return raw.recv(4096)


def test_an_address_that_has_its_share_gets_429_until_it_closes_one(open_service: RunningService, address: str) -> None:
    outside, inside = (address, open_service.port), ("127.0.0.1", open_service.port)
    with ExitStack() as held, ExitStack() as one:
        assert raw_answer(outside, one).startswith(b"HTTP/1.1 200")
        for _ in range(LIMIT - 1):
            assert raw_answer(outside, held).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            refused = httpx2.get(f"http://{address}:{open_service.port}/livez")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            error = json.loads(refused.text)["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert f"{LIMIT} connections" in error["message"]
        assert all(raw_answer(inside, held).startswith(b"HTTP/1.1 200") for _ in range(2 * LIMIT)), (
            "loopback is counted"
        )
        client = openai.OpenAI(base_url=f"http://{address}:{open_service.port}/v1", api_key="own", max_retries=0)
        with pytest.raises(openai.RateLimitError, match="connections open"):
            client.models.list()
        one.close()
        wait_until(lambda: raw_answer(outside).startswith(b"HTTP/1.1 200"), 10, "the place of the one that has left")
    assert open_service.log().count("connections open: more are refused") == 1


def test_a_client_that_sends_nothing_is_refused_and_closed_too(open_service: RunningService, address: str) -> None:
    outside = (address, open_service.port)
    with ExitStack() as held:
        for _ in range(LIMIT):
            wait_until(lambda: raw_answer(outside, held).startswith(b"HTTP/1.1 200"))
        with socket.create_connection(outside, timeout=10) as silent:
            assert silent.makefile("rb").read().startswith(b"HTTP/1.1 429"), "the connection stays open"
