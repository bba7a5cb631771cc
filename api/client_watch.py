"""Notices within milliseconds that a caller has closed its connection, also while nothing is written to it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

READ = 1
SEND_TIMEOUT_S = 30.0
SEND_BUFFER_BYTES = 32 * 1024


@contextmanager
def watching(client: Any, on_gone: Callable[[], None]) -> Iterator[None]:
    """Call `on_gone` when `client` (gunicorn's socket, or None outside of it) is closed by its other end.

    Also bounds what a stopped reader can hold: small kernel buffers, and a send that fails after 30 s.
    """
    if client is None:
        yield
        return
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    client.settimeout(SEND_TIMEOUT_S)
    watcher = gevent.get_hub().loop.io(client.fileno(), READ)

    def look() -> None:
        try:
            data = client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        watcher.stop()  # a pipelined request would wake us for ever
        if not data:
            on_gone()

    watcher.start(look)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()
