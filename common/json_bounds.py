"""Bounds on the values in a JSON body, counted in its bytes before anything is parsed."""

from typing import Any

from common.errors import InvalidRequest

MAX_FIELDS = 65_536  # named fields, objects and lists: each costs a microsecond or more
MAX_VALUES = 400_000  # plain values: token ids, mostly


def bounded_marks(raw: bytes) -> bytes:
    """The JSON without its strings: numbers and punctuation. Raises InvalidRequest for too many values.

    Fast enough to run before anything is parsed.
    """
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    num_texts = plain.count(b'"') // 2
    if num_texts > MAX_VALUES + MAX_FIELDS:
        raise _too_many(num_texts, "texts", MAX_VALUES)
    marks = b"".join(plain.split(b'"')[::2])
    num_lists = marks.count(b"[")
    if (num_fields := marks.count(b":") + marks.count(b"{") + num_lists) > MAX_FIELDS:
        raise _too_many(num_fields, "named fields, objects and lists", MAX_FIELDS)
    if (num_values := marks.count(b",") + num_lists + 1) > MAX_VALUES:
        raise _too_many(num_values, "values", MAX_VALUES)
    return marks


def is_deeper(value: Any, num_levels: int) -> bool:
    """Whether lists and objects stand in one another more than so often; level by level, for any depth."""
    level = [value]
    for _ in range(num_levels + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _too_many(number: int, what: str, most: int) -> InvalidRequest:
    return InvalidRequest(f"The body has {number} {what}; a request may have {most}.")
