"""The command line's own HTTP client."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import click
import pytest

from cli.client import Client

FRAME = b'data: {"choices":[]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """The address of a server that says this to one caller and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("ending", [b"", b"0\r\n\r\n"], ids=["cut", "ended without [DONE]"])
def test_a_stream_that_breaks_is_not_taken_for_an_answer(ending: bytes) -> None:
    answer = HEAD + b"%x\r\n%s\r\n" % (len(FRAME), FRAME) + ending
    with saying(answer) as url:
        events = Client(url, "sk-local").events("GET", "/")
        assert next(events) == {"choices": []}
        with pytest.raises(click.ClickException, match="broke"):
            next(events)
