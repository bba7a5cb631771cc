"""The kernel's view of a socket right now. gevent's poll takes a turn of its loop even for a timeout of zero.

`gevent.monkey.get_original` is gevent's public way to the functions of the standard library that it replaced.
"""

import select
import socket

from gevent.monkey import get_original

POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux only

StdlibPoll = get_original("select", "poll")
StdlibSocket = get_original("socket", "socket")


def has_events(fd: int, events: int) -> bool:
    """True if any of the events holds for the socket. Neither waits nor lets other greenlets run."""
    poll = StdlibPoll()
    poll.register(fd, events)
    return any(event & events for _, event in poll.poll(0))


def peek(fd: int) -> bytes:
    """The next byte that the socket has received, left in place; empty at the end. Raises BlockingIOError, OSError."""
    borrowed = StdlibSocket(fileno=fd)
    try:
        received: bytes = borrowed.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return received
    finally:
        borrowed.detach()
