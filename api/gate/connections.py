"""Limits the connections that each network has open to this process, so that one caller cannot take all 10,000.

Loopback is not counted: a proxy on this machine brings all its callers from there, and has limits of its own.
"""

import logging
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

logger = logging.getLogger("omni.api")


class Connections:
    """Open connections per network. A limit of 0 is none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: Counter[str] = Counter()
        self._warned: set[str] = set()

    def enter(self, network: str) -> bool:
        """False if the network has reached its limit. Otherwise a call of leave() must follow."""
        if not network or not self.limit:
            return True
        if self._open[network] < self.limit:
            self._open[network] += 1
            return True
        if network not in self._warned:
            self._warned.add(network)
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
        self._warned.discard(network)


def network_of(address: Any) -> str:
    """The bucket a peer is counted under: its IPv4 address or IPv6 /64; empty (uncounted) for unix and loopback."""
    if not isinstance(address, tuple):
        return ""
    ip = ip_address(str(address[0]))
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return ""
    return str(ip) if isinstance(ip, IPv4Address) else f"{IPv6Address(int(ip) >> 64 << 64)}/64"
