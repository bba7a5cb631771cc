"""Where webhooks may go: public addresses, and the hosts and networks that the operator names (OMNI_WEBHOOK_HOSTS).

A name is resolved before every attempt, each address is checked, and the connection goes to a checked address: what a
name points to later changes nothing.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Self
from urllib.parse import urlsplit

from common.errors import AddressRefused

MAX_URL = 2048  # characters
MAX_LABEL = 63  # characters between two dots of a host's name
RESOLVE_S = 5.0
FIRST_FREE_PORT = 1024  # below it only 80 and 443
URL = re.compile(r"[!-~]+")  # printable ASCII, no space

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ip_network("64:ff9b::/96")
# Not public, whatever `is_global` says in this version of Python.
REFUSED = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT, with Alibaba's metadata
        "168.63.129.16/32",  # Azure's metadata
        "192.0.0.0/24",  # Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
        "::/96",  # IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # NAT64 for local use
        "2001::/32",  # Teredo
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL: the host as it is written, the port, the path with its query, and the addresses to connect to."""

    is_tls: bool
    host: str
    port: int
    path: str
    addresses: Sequence[Address] = ()

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AddressRules:
    """`hosts`: names (`*.name` with all below it). `networks`: addresses and networks."""

    hosts: frozenset[str] = frozenset()
    networks: Sequence[Network] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        networks = [network for name in names if (network := network_of(name)) is not None]
        hosts = [name.lower() for name in names if network_of(name) is None]
        return cls(frozenset(hosts), tuple(networks))

    def target(self, url: str) -> Target:
        """Resolves the URL's host; blocks for at most RESOLVE_S. Raises AddressRefused."""
        target = parse_url(url)
        addresses = resolve(target.host, target.port)
        is_allowed = self._names(target.host) or all(self._contains(address) for address in addresses)
        if not is_allowed and target.port not in (80, 443) and target.port < FIRST_FREE_PORT:
            raise AddressRefused(f"Port {target.port} is refused: use 443, or one from {FIRST_FREE_PORT} on.")
        if not is_allowed and not all(self._contains(address) or is_public(address) for address in addresses):
            raise AddressRefused(
                f"The host '{target.host}' has an address that is not public. The operator may name the host or its "
                "network in OMNI_WEBHOOK_HOSTS."
            )
        if not is_allowed and not target.is_tls:
            raise AddressRefused("The URL must begin with https://; http is for hosts in OMNI_WEBHOOK_HOSTS only.")
        return Target(target.is_tls, target.host, target.port, target.path, addresses)

    def _names(self, host: str) -> bool:
        parents = [f"*{host[at:]}" for at, letter in enumerate(host) if letter == "."]
        return bool(self.hosts & {host, *parents})

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


def network_of(text: str) -> Network | None:
    """None for the name of a host."""
    try:
        return ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def parse_url(url: str) -> Target:
    """Checks the form only. Raises AddressRefused."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise AddressRefused("The URL is not well formed.") from None
    if not url:
        raise AddressRefused("The URL is empty; it must be https://host/path.")
    if len(url) > MAX_URL or not URL.fullmatch(url) or "\\" in url:
        raise AddressRefused(f"The URL must be at most {MAX_URL} printable ASCII characters without spaces.")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise AddressRefused("The URL must be https://host/path.")
    if not all(0 < len(label) <= MAX_LABEL for label in host.split(".")):  # resolvers do not take them
        raise AddressRefused(f"Each part of the host's name must have 1 to {MAX_LABEL} characters.")
    if "@" in parts.netloc or parts.fragment:
        raise AddressRefused("The URL must hold no user, no password and no fragment.")
    is_tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(is_tls, host, port or (443 if is_tls else 80), path)


def resolve(host: str, port: int, timeout_s: float = RESOLVE_S) -> Sequence[Address]:
    """All addresses of a host, in the system's order. Raises AddressRefused."""
    found: list[Address] = []

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in rows))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive() or not found:
        raise AddressRefused(f"The host '{host}' cannot be resolved.")
    return tuple(found)


def is_public(address: Address) -> bool:
    """True for an address of the internet, also one that stands for an IPv4 address of the internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not any(
        address in network for network in REFUSED if network.version == address.version
    )
