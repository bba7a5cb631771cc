"""Embedding vectors: base64 of little-endian float32 in the log, numbers in answers. Pure."""

import base64
import math
import struct
from collections.abc import Sequence


def numbers(vector: str) -> list[float]:
    raw = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def written(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def vector_bytes(num_dimensions: int) -> int:
    """Length of a vector in the log."""
    return -(-4 * num_dimensions // 3) * 4


def shortened(vector: str, dimensions: int) -> str:
    """The first `dimensions` numbers, normalized to length 1."""
    values = numbers(vector)[:dimensions]
    length = math.hypot(*values) or 1.0
    return written([value / length for value in values])
