import socket

import pytest

from common.addresses import url_of
from common.process.listener import Address, AddressTaken, listen


def test_a_connection_waits_for_the_next_process_that_accepts() -> None:
    holder = listen(Address.of_api("127.0.0.1", 0))
    port = holder.getsockname()[1]
    first = holder.dup()
    caller = socket.create_connection(("127.0.0.1", port))
    first.close()
    accepted, _ = holder.accept()
    accepted.sendall(b"x")
    assert caller.recv(1) == b"x"
    for one in (accepted, caller, holder):
        one.close()


def test_an_address_in_use_is_refused_with_its_setting() -> None:
    holder = listen(Address.of_api("127.0.0.1", 0))
    port = holder.getsockname()[1]
    with holder, pytest.raises(AddressTaken, match=f"OMNI_PORT={port} cannot be used: Address already in use"):
        listen(Address.of_api("127.0.0.1", port), patience_s=0.0)


def test_control_closing_the_port_resets_connections_in_its_queue() -> None:
    holder = listen(Address.of_api("127.0.0.1", 0))
    with socket.create_connection(holder.getsockname()) as caller:
        holder.close()
        with pytest.raises(ConnectionResetError):
            caller.recv(1)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("10.0.0.5", "10.0.0.5"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_the_service_is_reached_at_the_address_it_listens_on(host: str, address: str) -> None:
    assert url_of(host, 8000) == f"http://{address}:8000"
