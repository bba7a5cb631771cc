"""Server-sent events: dictionaries to frames. Pure."""

from typing import Any

from common.json_bytes import json_bytes

DONE = b"data: [DONE]\n\n"


def frame(data: dict[str, Any], number: int | None = None, event: str | None = None) -> bytes:
    """One event. `number` becomes its `id:`, after which a client can resume."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    if number is not None:
        head += b"id: %d\n" % number
    return head + b"data: " + json_bytes(data) + b"\n\n"


def comment(text: str, *, is_block: bool = False) -> bytes:
    """A line that clients ignore; it keeps proxies from closing an idle connection.

    `is_block`: followed by a blank line, for clients that split a stream at these. Not in a stream with `id:` lines:
    OpenAI's decoder would take that for an event without data.
    """
    return b": " + text.replace("\n", " ").encode() + (b"\n\n" if is_block else b"\n")


def retry(milliseconds: int) -> bytes:
    """Asks the client to reconnect after this time."""
    return b"retry: %d\n" % milliseconds  # no blank line, as in comment()
