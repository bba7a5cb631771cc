"""References within a JSON schema (`#/$defs/x`)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


def referred(root: Any, ref: str) -> Any:
    """What a reference within a schema leads to; None if it leads nowhere."""
    found = root if ref.startswith("#") else None
    for step in ref[1:].split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(key)] if key.isdecimal() and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, Mapping) else None
    return found
