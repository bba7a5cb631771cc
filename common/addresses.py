"""Which host reaches what listens, and how it is written in a URL."""

from types import MappingProxyType

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
OWN_ADDRESS = MappingProxyType({"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"})


def url_of(host: str, port: int) -> str:
    """Where this machine reaches a service that listens at this address."""
    return f"http://{bracketed(OWN_ADDRESS.get(host, host))}:{port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
