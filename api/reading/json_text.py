"""A JSON object in a text that a model wrote: the arguments of a call."""

import json
from typing import Any

from common.json_bounds import is_deeper

MAX_LEVELS = 128  # every later step over the value recurses


def object_in(text: str) -> dict[str, Any] | None:
    """None if the text holds no object, or one that Python cannot read or is nested deeper than MAX_LEVELS.

    Half of an emoji as an escape (a lone surrogate) becomes the replacement character: it cannot be encoded.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for a number of thousands of digits
        return None
    if not isinstance(value, dict) or is_deeper(value, MAX_LEVELS):
        return None
    return value if "\\u" not in text else _without_lone_surrogates(value)


def _without_lone_surrogates(value: dict[str, Any]) -> dict[str, Any]:
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError:
        cleaned: dict[str, Any] = json.loads(written.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        return cleaned
    return value
