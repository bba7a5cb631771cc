"""A Redis that anybody can read: on other machines, and asked without a password."""

import logging
from urllib.parse import parse_qs, urlsplit

from common.settings import LOOPBACK


def open_hosts(url: str) -> str:
    """Where REDIS_URL leads, if that is to other machines without a password; else empty."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    has_password = bool(credentials.partition(":")[2] or parse_qs(parts.query).get("password"))
    is_here = parts.scheme == "unix" or all(map(is_loopback, hosts.split(",")))
    return "" if has_password or is_here else hosts


def is_loopback(host: str) -> bool:
    """Of `name`, `name:port` or `[address]:port`; without a name it is this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return not name or name in LOOPBACK or name.startswith("127.")


def warn_of_open_redis(url: str, logger: logging.Logger) -> None:
    if hosts := open_hosts(url):
        logger.warning(
            "REDIS_URL leads to %s without a password, so whoever reaches that reads every request: "
            "give it users (deploy/valkey/users.conf).",
            hosts,
        )
