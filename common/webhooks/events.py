"""The types of events, and an event as it is sent: as OpenAI's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from common.json_bytes import json_bytes

EVENT_TYPES = (
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "chat.completion.completed",
    "chat.completion.failed",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
)
ALL_TYPES = "*"
SAMPLE_PREFIX = MappingProxyType({"response": "resp_", "chat": "chatcmpl-", "batch": "batch_"})


def event_body(event_id: str, created: float, event_type: str, data: Mapping[str, Any]) -> bytes:
    """The same bytes for every attempt."""
    return json_bytes(
        {"id": event_id, "object": "event", "created_at": int(created), "type": event_type, "data": dict(data)}
    )


def sample_data(event_type: str) -> dict[str, Any]:
    """The data of a test: an id of the right form, of nothing that there is."""
    return {"id": SAMPLE_PREFIX[event_type.partition(".")[0]] + "test"}
