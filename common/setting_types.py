"""Types of settings: each turns the text of a setting into a value or refuses it."""

import re
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

MIN_MEMORY = 16 * 2**20  # the largest request body and what is made of it
UNITS = MappingProxyType({"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40})
BYTES = re.compile(r"(\d{1,15}) ?(b|kb|mb|gb|tb|)")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^\s/?#@:\[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?", re.IGNORECASE)
NO_REDIS_ADDRESS = (
    "REDIS_URL is not a Redis address; write redis://user:password@host:6379/0, rediss://..., unix:///path or "
    "redis+sentinel://:password@host:26379/service, with %2F for a / in a password."
)


def split(text: str) -> tuple[str, ...]:
    """The parts of a comma separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_bytes(text: str) -> int | None:
    """'512mb' is 512 * 2**20, as in Valkey's own settings; '' is None."""
    if not text.strip():
        return None
    found = BYTES.fullmatch(text.strip().lower())
    number = int(found[1]) * UNITS[found[2]] if found else 0
    if number < MIN_MEMORY:
        raise ValueError("it is a number of bytes, such as 512mb or 2gb, and 16mb at least")
    return number


def is_origin(text: str) -> bool:
    """True for scheme://host[:port], as browsers send it; a slash at the end is allowed."""
    return ORIGIN.fullmatch(text) is not None


def none_if_empty(text: Any) -> Any:
    return None if text == "" else text


def is_redis_address(url: str) -> bool:
    """Checks the form only. redis+sentinel:// needs hosts and a service, unix:// a path."""
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        has_ports = all(host.port is None or host.port for host in hosts)  # reading it raises ValueError
    except ValueError:
        return False
    path = [part for part in parts.path.split("/") if part]
    if parts.scheme == "redis+sentinel":
        return all(host.hostname for host in hosts) and len(path) in (1, 2) and "".join(path[1:] or "0").isdigit()
    has_database = re.search(r"(^|&)db=(?!\d+(&|$))", parts.query) is None
    is_known = parts.scheme in ("redis", "rediss") or (parts.scheme == "unix" and bool(path))
    return is_known and has_database and has_ports


Names = Annotated[tuple[str, ...], BeforeValidator(split)]
AutoInt = Annotated[int | None, BeforeValidator(none_if_empty)]
Bytes = Annotated[int | None, BeforeValidator(parse_bytes)]
