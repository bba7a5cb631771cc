"""Notices soon that a caller has closed its connection, also while nothing is written to it.

The end of what a caller sends does not say that it left: it may have closed its sending half only, and still read. So
something is written that a reader passes over. An end that is closed answers it with a reset; one that reads does not.
"""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import gevent
from gevent.monkey import get_original

READ = 1
SEND_TIMEOUT_S = 30.0
SEND_BUFFER_BYTES = 32 * 1024
PAUSES_S = (0.05, 0.25, 0.7, 2.0)  # a proxy between passes the reset on only when it is written to once more
PAUSE_S = 15.0
LOOK_S = 0.5
POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux only

KernelPoll = get_original("select", "poll")


@contextmanager
def watching(client: Any, on_gone: Callable[[], None], probe: Callable[[], object]) -> Iterator[None]:
    """Call `on_gone` when `client` (gunicorn's socket, or None outside of it) is closed by its other end.

    `probe` has something written. Also bounds what a stopped reader can hold: small kernel buffers, and a send that
    fails after 30 s.
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
            data = client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            watcher.stop()
            on_gone()
            return
        watcher.stop()  # a pipelined request, or the end, would wake us for ever
        probing.append(gevent.spawn(_probe_at_end if data else _probe, client.fileno(), on_gone, probe))

    watcher.start(look)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()
        gevent.killall(probing, block=False)


def _probe_at_end(fd: int, on_gone: Callable[[], None], probe: Callable[[], object]) -> None:
    """The end of what a caller sends lies behind the bytes of its next request: it cannot be read yet."""
    while not _has(fd, POLLRDHUP | select.POLLERR):
        gevent.sleep(LOOK_S)
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
    """Whether neither end can send any more; the kernel knows it once a reset has come."""
    return _has(fd, select.POLLHUP | select.POLLERR)


def _has(fd: int, events: int) -> bool:
    poll = KernelPoll()
    poll.register(fd, events)
    return any(event & events for _, event in poll.poll(0))
