"""How long a model stays loaded without work, in Ollama's words."""

import math
import re
from types import MappingProxyType

FOREVER_S = -1.0
UNITS_S = MappingProxyType({"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9})
PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
WRONG = 'it must be seconds, such as 300, or a duration, such as "5m" or "1h30m"; 0 is at once, -1 never'


def parse_keep_alive(value: object) -> float:
    """Seconds; FOREVER_S for everything below 0. Raises ValueError with what is allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(WRONG)
    try:
        seconds = parse_duration(value.strip()) if isinstance(value, str) else float(value)
    except OverflowError:
        raise ValueError(WRONG) from None
    if not math.isfinite(seconds):
        raise ValueError(WRONG)
    return FOREVER_S if seconds < 0 else seconds


def parse_duration(text: str) -> float:
    """'1h30m' is 5400.0, as in Go; a number without a unit is seconds."""
    if NUMBER.fullmatch(text):
        return float(text)
    parts = text[1:] if text[:1] in ("+", "-") else text
    if not parts or PART.sub("", parts):
        raise ValueError(WRONG)
    seconds = sum(float(number) * UNITS_S[unit] for number, unit in PART.findall(parts))
    return -seconds if text[0] == "-" else seconds
