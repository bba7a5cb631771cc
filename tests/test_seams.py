"""Each private part of a library that we rely on is still there: an upgrade that moves one fails here by name.

One class per library; the reasons stand in the library's seams module.
"""

import inspect
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


class TestGunicorn:
    """api/gate/gunicorn_seams.py."""

    @pytest.mark.parametrize(
        "name", ["init_process", "load_wsgi", "handle", "handle_request", "handle_error", "handle_exit"]
    )
    def test_an_overridden_method_has_the_parameters_of_gunicorns(self, name: str) -> None:
        from gunicorn.workers.ggevent import GeventWorker

        from api.gate.gunicorn_seams import OmniGeventWorker

        ours, theirs = getattr(OmniGeventWorker, name), getattr(GeventWorker, name)
        assert len(inspect.signature(ours).parameters) == len(inspect.signature(theirs).parameters)

    def test_a_connection_without_a_request_can_be_answered_and_closed(self) -> None:
        from api.gate.gunicorn_seams import refuse_connection

        with connected() as (near, far):
            refuse_connection(near, 7)
            assert far.recv(1000).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")

    def test_a_body_can_be_marked_as_not_read_to_its_end(self) -> None:
        from gunicorn.http.body import Body

        from api.gate.gunicorn_seams import close_after, is_gunicorns

        body = Body(SimpleNamespace(read=lambda _: b""))
        assert is_gunicorns(body) and not body.failed
        close_after(body)
        assert body.failed

    def test_the_error_log_can_be_sent_to_the_root_logger(self) -> None:
        from gunicorn.config import Config

        from api.gate.gunicorn_seams import OmniLogger

        log = OmniLogger(Config())
        assert log.error_log.propagate and not log.error_log.handlers

    def test_the_number_of_accepts_in_a_row_is_an_attribute_of_gevents_server(self) -> None:
        from gevent.baseserver import BaseServer
        from gevent.server import StreamServer

        assert issubclass(StreamServer, BaseServer) and BaseServer.max_accept > 1


class TestRedis:
    """api/process/redis_seams.py."""

    def test_a_quiet_connection_has_nothing_to_read_and_one_with_a_reply_has(self, redis: Any) -> None:
        from redis import BlockingConnectionPool

        from api.process.redis_seams import GreenParser

        kwargs = redis.connection_pool.connection_kwargs | {"parser_class": GreenParser}
        pool = BlockingConnectionPool(connection_class=redis.connection_pool.connection_class, **kwargs)
        connection = pool.get_connection()
        try:
            assert not connection.can_read()
            connection.send_command("PING")
            assert connection.can_read(timeout=5)
            connection.send_command("PING")
            assert connection.read_response() == b"PONG"
            assert connection.can_read(timeout=5), "the second reply"
            assert connection.read_response() == b"PONG"
            assert not connection.can_read()
        finally:
            pool.disconnect()

    def test_a_reply_that_was_received_and_not_read_is_seen(self) -> None:
        from api.process.redis_seams import GreenParser

        with connected() as (near, far):
            parser = parser_on(GreenParser, near)
            far.sendall(b"+one\r\n+two\r\n")
            assert parser.can_read(5)
            assert parser.read_response() == b"one"
            assert parser.can_read(), "the parser holds the second reply, the socket is empty"
            assert parser.read_response() == b"two" and not parser.can_read()

    def test_a_closed_connection_is_noticed_without_waiting(self) -> None:
        from redis.exceptions import ConnectionError

        from api.process.redis_seams import GreenParser

        near, far = socket.socketpair()
        with near:
            parser = parser_on(GreenParser, near)
            assert not parser.can_read()
            far.close()
            with pytest.raises(ConnectionError):
                parser.can_read()


def parser_on(kind: Any, sock: socket.socket) -> Any:
    encoder = SimpleNamespace(encoding_errors="strict", decode_responses=False, encoding="utf-8")
    parser = kind(socket_read_size=4096)
    parser.on_connect(SimpleNamespace(_sock=sock, socket_timeout=5, encoder=encoder))
    return parser


class TestGevent:
    """api/process/kernel_poll.py: no private part, but what it hands out must be the standard library's."""

    def test_the_kernel_answers_for_a_socket(self) -> None:
        from api.process.kernel_poll import has_events, peek

        with connected() as (near, far):
            assert not has_events(near.fileno(), select.POLLIN)
            with pytest.raises(BlockingIOError):
                peek(near.fileno())
            far.sendall(b"xy")
            assert has_events(near.fileno(), select.POLLIN)
            assert peek(near.fileno()) == b"x" == peek(near.fileno())
            assert near.recv(2) == b"xy"
