"""The command line's own HTTP client."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic
from types import SimpleNamespace

import click
import pytest

from cli.client import Client, StoppedWhileAway

FRAME = b'data: {"choices":[]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nOmni-Job-Id: chatcmpl-1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@contextmanager
def saying(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that sends these answers in turn, and the requests that it received."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.append(request_on(connection))
                    connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def request_on(connection: socket.socket) -> bytes:
    """Head and, of a POST, the object in its body."""
    data = b""
    while not data.endswith(b"}" if data.startswith(b"POST") else b"\r\n\r\n"):
        data += connection.recv(65536)
    return data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("ending", [b"", b"0\r\n\r\n"], ids=["cut", "ended without [DONE]"])
def test_a_stream_that_breaks_is_not_taken_for_an_answer(ending: bytes) -> None:
    with saying(HEAD + chunk(FRAME) + ending) as (url, _):
        events = Client(url, "sk-local").events("GET", "/")
        assert next(events) == {"choices": []}
        with pytest.raises(click.ClickException, match="broke"):
            next(events)


def test_a_chat_is_resumed_after_the_last_received_event() -> None:
    first = HEAD + chunk(b"id: 1\n" + FRAME) + chunk(b"id: 2\n" + FRAME) + chunk(b"retry: 1000\n") + b"0\r\n\r\n"
    away = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    rest = HEAD + chunk(b"id: 3\n" + FRAME) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    with saying(first, away, rest) as (url, asked):
        told = f"waiting for {url}: the connection broke"
        assert list(Client(url, "sk-local").chat({})) == [{"choices": []}, {"choices": []}, told, {"choices": []}]
    assert b"POST /v1/chat/completions " in asked[0] and b"include_event_ids" in asked[0]
    assert asked[1].startswith(b"GET /v1/chat/completions/chatcmpl-1?stream=true&starting_after=2 ")
    assert asked[2].splitlines()[0] == asked[1].splitlines()[0]


def test_ctrl_c_while_the_service_is_away_tells_of_the_job_that_it_may_still_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.client.time", SimpleNamespace(sleep=stop, monotonic=monotonic))
    with saying(HEAD + b"0\r\n\r\n") as (url, _), pytest.raises(StoppedWhileAway) as stopped:
        list(Client(url, "sk-local").chat({}))
    assert stopped.value.job_id == "chatcmpl-1"


def test_a_job_that_is_gone_is_not_asked_for_again() -> None:
    first = HEAD + chunk(b"id: 1\n" + FRAME) + b"0\r\n\r\n"
    said = b'{"error": {"message": "There is no such job."}}'
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(said), said)
    with saying(first, gone) as (url, _), pytest.raises(click.ClickException, match="no such job"):
        list(Client(url, "sk-local").chat({}))


def test_connections_that_break_at_once_are_opened_with_a_pause_between(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(
        "cli.client.time", SimpleNamespace(sleep=pauses.append, monotonic=monotonic)
    )  # not other threads'
    empty = HEAD + b"0\r\n\r\n"
    with saying(empty, empty, empty, HEAD + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n") as (url, _):
        assert len(list(Client(url, "sk-local").chat({}))) == len(pauses) == 3


@pytest.mark.parametrize(
    "head", [b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunks"]
)
def test_a_download_that_breaks_leaves_no_file(tmp_path: Path, head: bytes) -> None:
    body = chunk(b"half") if b"chunked" in head else b"half"
    with saying(b"HTTP/1.1 200 OK\r\n" + head + b"Connection: close\r\n\r\n" + body) as (url, _):
        with pytest.raises(click.ClickException, match="broke"):
            Client(url, "sk-local").download("/", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "http://127.0.0.1:1",
            "http://127.0.0.1:1 does not answer (Connection refused); is the service running? Try: ",
        ),
        ("http://nowhere.invalid", "check the address, and that it runs."),
    ],
)
def test_a_service_that_does_not_answer_is_started_here_and_looked_for_elsewhere(url: str, sentence: str) -> None:
    with pytest.raises(click.ClickException) as refused:
        Client(url, "sk-local").json("GET", "/v1/models")
    assert sentence in refused.value.message and "Errno" not in refused.value.message


def test_a_server_of_another_kind_is_told_of() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
    with saying(page) as (url, _), pytest.raises(click.ClickException, match="is no service of this kind"):
        Client(url, "sk-local").json("GET", "/v1/models")


def test_a_server_without_tls_is_told_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=serve)
        thread.start()
        with pytest.raises(click.ClickException, match="does not speak TLS"):
            Client(f"https://127.0.0.1:{listener.getsockname()[1]}", "sk-local").json("GET", "/v1/models")
        thread.join()
