"""Notices that a client has closed its connection, also while nothing is written to it.

The end of a client's data is not enough: it may have shut down its sending half only, and still read. So the watcher
has bytes written that a reader skips. A closed end answers them with a reset; one that reads does not.
"""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import gevent

from api.process.kernel_poll import POLLRDHUP, has_events, peek

READ = 1
SEND_TIMEOUT_S = 30.0
SEND_BUFFER_BYTES = 32 * 1024
PAUSES_S = (0.05, 0.25, 0.7, 2.0)  # a proxy passes the reset on only after one more write
PAUSE_S = 15.0
RDHUP_PAUSE_S = 0.5


@contextmanager
def watching(client: Any, on_gone: Callable[[], None], probe: Callable[[], object]) -> Iterator[None]:
    """Call `on_gone` once the other end has closed `client` (gunicorn's socket, or None outside gunicorn).

    `probe` writes something to the client. Small kernel buffers and a send timeout of 30 s bound what a client that
    stopped reading can hold.
    """
    if client is None:
        yield
        return
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    client.settimeout(SEND_TIMEOUT_S)
    watcher = gevent.get_hub().loop.io(client.fileno(), READ)
    probing: list[gevent.Greenlet] = []

    def look() -> None:
        try:
            data = peek(client.fileno())
        except BlockingIOError:
            return
        except OSError:
            watcher.stop()
            on_gone()
            return
        watcher.stop()  # a pipelined request, or the end, would wake the watcher again and again
        probing.append(gevent.spawn(_probe_at_end if data else _probe, client.fileno(), on_gone, probe))

    watcher.start(look)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()
        gevent.killall(probing, block=False)


def _probe_at_end(fd: int, on_gone: Callable[[], None], probe: Callable[[], object]) -> None:
    """Probe once the client has sent its last byte: the end comes after a pipelined request, so it cannot be read."""
    while not has_events(fd, POLLRDHUP | select.POLLERR):
        gevent.sleep(RDHUP_PAUSE_S)
    _probe(fd, on_gone, probe)


def _probe(fd: int, on_gone: Callable[[], None], probe: Callable[[], object]) -> None:
    for pause_s in chain(PAUSES_S, repeat(PAUSE_S)):
        if not is_closed(fd):
            try:
                probe()
            except OSError:
                return on_gone()
            gevent.sleep(pause_s)
        if is_closed(fd):
            return on_gone()


def is_closed(fd: int) -> bool:
    """True when neither end can send any more; the kernel knows that once a reset has arrived."""
    return has_events(fd, select.POLLHUP | select.POLLERR)
