"""Bytes -> JSON object, or a refusal with the reason. Strict; bounded in work and depth."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Any

import orjson

from common.errors import InvalidRequest
from common.json_bounds import bounded_marks

MAX_DEPTH = 64
MAX_DIGITS = 20
SEARCH_BYTES = 256 * 1024  # of one regex search, which keeps the GIL
LONG_NUMBER = re.compile(rb"\d{19}")  # may exceed 64 bits


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises InvalidRequest for NaN, infinities, lone surrogates, encodings other than UTF-8, repeated names, and for
    values that are nested too deeply or too many.
    """
    raw = raw.removeprefix(BOM_UTF8)
    marks = bounded_marks(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {_not_utf8(raw) or error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    num_fields = _checked_fields(value)
    if num_fields == marks.count(b":") and not _has_long_number(marks):
        return value
    # orjson drops repeated names and turns large integers into floats; json reports the former and keeps the latter
    parsed: dict[str, Any] = json.loads(raw, object_pairs_hook=_without_repeats, parse_int=_bounded_int)
    return parsed


def _not_utf8(raw: bytes) -> str:
    """Where the first byte is that is not UTF-8, if any; orjson names the body's beginning."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"it must be UTF-8, and the byte 0x{raw[error.start]:02x} at {error.start} is not"
    return ""


def _has_long_number(marks: bytes) -> bool:
    starts = range(0, len(marks), SEARCH_BYTES)
    return any(LONG_NUMBER.search(marks, at, at + SEARCH_BYTES + MAX_DIGITS) for at in starts)


def _checked_fields(value: Any) -> int:
    """The number of named fields. Raises InvalidRequest when lists and objects are nested deeper than MAX_DEPTH."""
    level = [value]
    num_fields = 0
    for _ in range(MAX_DEPTH):
        num_fields += sum(len(node) for node in level if isinstance(node, dict))
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return num_fields
    raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated = _first_repeated(name for name, _ in pairs)
        raise InvalidRequest(f"The name {repeated[:64]!r} stands twice in one object.", param=repeated[:64])
    return found


def _first_repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise ValueError("no name is repeated")


def _bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise InvalidRequest(f"The body holds a whole number of more than {MAX_DIGITS} digits.")
    return int(text)
