"""How many connections each address has open to this process: one caller cannot take them all.

A process takes 10,000. This machine's own addresses are not counted: a proxy on it brings everybody from there, and has
limits of its own.
"""

import logging
from collections import Counter
from ipaddress import IPv6Address
from typing import Any

import orjson
from gunicorn import util

from api.gate.errors import error_body

logger = logging.getLogger("omni.api")

LINGER_S = 0.2  # for one that is refused, to read why


class Connections:
    """Counts per network of open connections. limit 0: none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: Counter[str] = Counter()
        self._told: set[str] = set()

    def enter(self, network: str) -> bool:
        """False when this network has its share. Who was let in must leave()."""
        if not network or not self.limit:
            return True
        if self._open[network] < self.limit:
            self._open[network] += 1
            return True
        if network not in self._told:
            self._told.add(network)
            logger.warning("%s has %d connections open: more are refused with 429", network, self.limit)
        return False

    def leave(self, network: str) -> None:
        if not network or not self.limit:
            return
        left = self._open[network] - 1
        if left > 0:
            self._open[network] = left
            return
        del self._open[network]
        self._told.discard(network)


def network_of(address: Any) -> str:
    """Whom a socket's peer counts as: an IPv4 address, the /64 that an IPv6 host has; empty for loopback and unix."""
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    if ":" in host:
        ip = IPv6Address(host)
        if ip.ipv4_mapped is None:
            return "" if ip.is_loopback else f"{IPv6Address(int(ip) >> 64 << 64)}/64"
        host = str(ip.ipv4_mapped)
    return "" if host.startswith("127.") else host


def refuse(client: Any, limit: int) -> None:
    """429 before a byte is read, then the end of the connection."""
    message = (
        f"This address has {limit} connections open, which is the most this server takes: close some, or reuse them."
    )
    body = orjson.dumps(error_body("rate_limit_exceeded", message))
    head = (
        "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode() + body)
    except OSError:
        logger.debug("the refused caller has left")
    util.close_graceful(client, LINGER_S)
