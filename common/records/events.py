"""Events of webhooks: each is recorded once, with one delivery for each endpoint that asked for its type."""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, or_, select

from common.records.database import insert_new
from common.records.schema import webhook_deliveries, webhook_endpoints, webhook_events


def record_event(
    connection: Connection, owner: str, type: str, data: Mapping[str, Any], key: str, created: float | None = None
) -> None:
    """Record what happened, in the transaction that makes it true. A repeated `key` changes nothing.

    Without an endpoint that wants it nothing is kept. The dispatcher's feed finds the new deliveries.
    """
    wanted = subscribers(connection, owner, type)
    if not wanted:
        return
    now = time.time()
    event_id = id_of("evt_", key)
    event = {"id": event_id, "owner": owner, "type": type, "created": created or now, "data": dict(data)}
    insert_new(connection, webhook_events, [event])
    deliveries = [
        {
            "id": id_of("whd_", event_id, endpoint_id),
            "event_id": event_id,
            "endpoint_id": endpoint_id,
            "state": "pending",
            "created": now,
            "began": now,
            "due": now,
        }
        for endpoint_id in wanted
    ]
    insert_new(connection, webhook_deliveries, deliveries)


def subscribers(connection: Connection, owner: str, event_type: str) -> list[str]:
    """The endpoints that get this owner's events of this type."""
    of_owner = or_(webhook_endpoints.c.owner == owner, webhook_endpoints.c.scope == "all")
    query = select(webhook_endpoints.c.id, webhook_endpoints.c.event_types).where(
        of_owner, webhook_endpoints.c.disabled.is_(None)
    )
    kept = query.with_for_update(read=True, key_share=True)  # nobody deletes them before their deliveries are there
    return [row.id for row in connection.execute(kept) if {"*", event_type} & set(row.event_types)]


def id_of(prefix: str, *parts: str) -> str:
    """An id that follows from what it stands for."""
    return prefix + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
