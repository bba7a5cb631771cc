"""Webhook endpoints and their deliveries, as the API shows and changes them. All moments are unix seconds."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, func, or_, select, true, update

from common.records.database import by_time
from common.records.schema import webhook_deliveries, webhook_endpoints, webhook_events

OLD_SECRET_S = 24 * 3600
BY_OWNER = "disabled by request"
HEALTHY: Mapping[str, Any] = MappingProxyType({"failing_since": None, "failures": 0, "blocked_until": 0.0})


def _belongs(owner: str | None) -> ColumnElement[bool]:
    """`owner`: None for an admin, who sees all."""
    return true() if owner is None else webhook_endpoints.c.owner == owner


def add_endpoint(connection: Connection, values: Mapping[str, Any]) -> Row[Any]:
    now = time.time()
    row = {"id": f"we_{uuid4().hex}", "created": now, "updated": now, **values}
    connection.execute(webhook_endpoints.insert().values(row))
    found = endpoint_of(connection, None, row["id"])
    assert found is not None
    return found


def num_endpoints(connection: Connection, owner: str) -> int:
    query = select(func.count()).select_from(webhook_endpoints).where(webhook_endpoints.c.owner == owner)
    return connection.execute(query).scalar_one()


def endpoint_of(connection: Connection, owner: str | None, endpoint_id: str) -> Row[Any] | None:
    query = select(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id, _belongs(owner))
    return connection.execute(query).one_or_none()


def endpoints_of(
    connection: Connection, owner: str | None, limit: int, after: Row[Any] | None = None
) -> Sequence[Row[Any]]:
    """Newest first; one more than `limit` when there are more."""
    query = select(webhook_endpoints).where(_belongs(owner))
    return connection.execute(_page(query, webhook_endpoints, limit, after)).all()


def failing_endpoints(connection: Connection, limit: int) -> Sequence[Row[Any]]:
    """Every key's endpoints that fail, or were disabled but not by request; those that fail for longest first."""
    query = select(webhook_endpoints).where(
        or_(
            webhook_endpoints.c.failing_since.is_not(None) & webhook_endpoints.c.disabled.is_(None),
            webhook_endpoints.c.disabled.is_not(None) & (webhook_endpoints.c.disabled_why != BY_OWNER),
        )
    )
    since = func.coalesce(webhook_endpoints.c.failing_since, webhook_endpoints.c.disabled)
    return connection.execute(query.order_by(since, webhook_endpoints.c.id).limit(limit)).all()


def change_endpoint(connection: Connection, endpoint_id: str, changes: Mapping[str, Any]) -> Row[Any]:
    """`updated` is set too. An endpoint that is enabled begins anew: its failures are forgotten."""
    values = {**changes, "updated": time.time()}
    if "disabled" in changes and changes["disabled"] is None:
        values |= {"disabled_why": None, **HEALTHY}
    if "url" in changes:
        values |= {"failures": 0, "blocked_until": 0.0}
    connection.execute(update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id).values(values))
    found = endpoint_of(connection, None, endpoint_id)
    assert found is not None
    return found


def forget_failures(connection: Connection, endpoint_id: str) -> None:
    """After a success: deliveries that only waited for the endpoint are due now."""
    fails = (webhook_endpoints.c.id == endpoint_id) & webhook_endpoints.c.failing_since.is_not(None)
    if connection.execute(update(webhook_endpoints).where(fails).values(HEALTHY)).rowcount:
        now, table = time.time(), webhook_deliveries.c
        waits = (table.endpoint_id == endpoint_id) & (table.state == "pending") & (table.attempts == 0)
        put_off = waits & (table.due > now)
        connection.execute(update(webhook_deliveries).where(put_off).values(due=now, handed=0.0))


def rotate_secret(connection: Connection, endpoint_id: str, secret: str, *, keep_old: bool) -> Row[Any]:
    """With `keep_old` deliveries carry both signatures for 24 hours."""
    found = endpoint_of(connection, None, endpoint_id)
    assert found is not None
    old = {"old_secret": found.secret, "old_secret_until": time.time() + OLD_SECRET_S}
    gone = {"old_secret": None, "old_secret_until": None}
    return change_endpoint(connection, endpoint_id, {"secret": secret, **(old if keep_old else gone)})


def valid_secrets(endpoint: Row[Any], now: float) -> list[str]:
    """The secret, and the one before it while that is valid."""
    is_old_valid = endpoint.old_secret is not None and endpoint.old_secret_until > now
    return [endpoint.secret, endpoint.old_secret] if is_old_valid else [endpoint.secret]


def remove_endpoint(connection: Connection, endpoint_id: str) -> None:
    """Its deliveries go with it."""
    connection.execute(delete(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id))


def deliveries_of(
    connection: Connection, endpoint_id: str, limit: int, after: Row[Any] | None = None
) -> Sequence[Row[Any]]:
    """Newest first; one more than `limit` when there are more."""
    query = _deliveries(endpoint_id)
    return connection.execute(_page(query, webhook_deliveries, limit, after)).all()


def delivery_of(connection: Connection, endpoint_id: str, delivery_id: str) -> Row[Any] | None:
    query = _deliveries(endpoint_id).where(webhook_deliveries.c.id == delivery_id)
    return connection.execute(query).one_or_none()


def deliver_again(connection: Connection, endpoint_id: str, delivery_id: str) -> None:
    """Due now, whatever became of it and whatever its endpoint waits for, with all its time before it."""
    now = time.time()
    connection.execute(update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id).values(blocked_until=0.0))
    fresh = {"state": "pending", "attempts": 0, "began": now, "due": now, "handed": 0.0, "ended": None}
    connection.execute(update(webhook_deliveries).where(webhook_deliveries.c.id == delivery_id).values(fresh))


def purge_events(connection: Connection, before: float, limit: int = 1000) -> int:
    """Deletes events of before this time, with their deliveries. Returns how many, at most `limit`."""
    old = select(webhook_events.c.id).where(webhook_events.c.created < before).limit(limit)
    return connection.execute(delete(webhook_events).where(webhook_events.c.id.in_(old))).rowcount


def _deliveries(endpoint_id: str) -> Select[Any]:
    """With the type and the data of their events."""
    event = (webhook_events.c.type.label("event_type"), webhook_events.c.data.label("event_data"))
    query = select(webhook_deliveries, *event).join(webhook_events)
    return query.where(webhook_deliveries.c.endpoint_id == endpoint_id)


def _page(query: Select[Any], table: Table, limit: int, after: Row[Any] | None) -> Select[Any]:
    return by_time(query, table, None if after is None else (after.created, after.id)).limit(limit + 1)
