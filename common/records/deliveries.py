"""Deliveries on their way: which are new, which are lost, and what an attempt changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from common.records.schema import webhook_deliveries, webhook_endpoints, webhook_events
from common.records.webhooks import forget_failures, valid_secrets

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
DISABLED = "the endpoint is disabled"


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: `seconds` from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that may begin. No other worker makes it before `lease_s` are over."""

    delivery_id: str
    endpoint_id: str
    event_id: str
    event_type: str
    event_created: float
    data: Mapping[str, Any]
    url: str
    secrets: Sequence[str]
    began: float  # when the delivery's time began
    at: float
    number: int  # of this attempt, from 1


def new_deliveries(connection: Connection, limit: int) -> Sequence[Sequence[str]]:
    """(id, endpoint_id) of deliveries that RQ does not know, oldest first."""
    query = (
        select(webhook_deliveries.c.id, webhook_deliveries.c.endpoint_id)
        .where(webhook_deliveries.c.state == PENDING, webhook_deliveries.c.handed == 0)
        .order_by(webhook_deliveries.c.created)
        .limit(limit)
    )
    return [(row.id, row.endpoint_id) for row in connection.execute(query)]


def overdue_deliveries(connection: Connection, before: float, limit: int) -> Sequence[Sequence[str]]:
    """(id, endpoint_id) of deliveries that RQ was given and that should have been attempted before this time."""
    query = (
        select(webhook_deliveries.c.id, webhook_deliveries.c.endpoint_id)
        .where(
            webhook_deliveries.c.state == PENDING, webhook_deliveries.c.handed > 0, webhook_deliveries.c.due < before
        )
        .order_by(webhook_deliveries.c.handed)
        .limit(limit)
    )
    return [(row.id, row.endpoint_id) for row in connection.execute(query)]


def leased(connection: Connection, delivery_ids: Sequence[str], since: float) -> set[str]:
    """Those of these deliveries that a worker may have: their attempt's lease ends after this time."""
    mine = webhook_deliveries.c.id.in_(delivery_ids)
    query = select(webhook_deliveries.c.id).where(
        mine, webhook_deliveries.c.state == PENDING, webhook_deliveries.c.due >= since
    )
    return set(connection.execute(query).scalars())


def delivery_counts(connection: Connection) -> dict[str, int]:
    """Every key's deliveries by their state."""
    found = select(webhook_deliveries.c.state, func.count()).group_by(webhook_deliveries.c.state)
    return {row[0]: row[1] for row in connection.execute(found)}


def mark_handed(connection: Connection, delivery_ids: Sequence[str], now: float) -> None:
    chosen = webhook_deliveries.c.id.in_(delivery_ids)
    connection.execute(update(webhook_deliveries).where(chosen).values(handed=now))


def begin_attempt(
    connection: Connection, delivery_id: str, now: float, lease_s: float, spread: float
) -> Attempt | Wait | None:
    """None when there is nothing left to do. `spread`, 0 to 1: keeps those that wait for an endpoint apart."""
    query = (
        select(webhook_deliveries, webhook_events.c.type, webhook_events.c.data, webhook_events.c.created.label("at"))
        .join(webhook_events)
        .where(webhook_deliveries.c.id == delivery_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None or row.state != PENDING:
        return None
    endpoint = _endpoint(connection, row.endpoint_id)
    if endpoint.disabled is not None:
        _end(connection, delivery_id, FAILED, now, {"error": endpoint.disabled_why or DISABLED})
        return None
    if row.due > now:
        return Wait(row.due - now)
    if endpoint.blocked_until > now:
        wait_s = (endpoint.blocked_until - now) * (1 + 0.1 * spread) + spread
        _change(connection, delivery_id, {"due": now + wait_s})
        return Wait(wait_s)
    mine = update(webhook_deliveries).where(
        webhook_deliveries.c.id == delivery_id, webhook_deliveries.c.state == PENDING, webhook_deliveries.c.due <= now
    )
    taken = connection.execute(mine.values(due=now + lease_s, attempted=now, attempts=row.attempts + 1))
    if taken.rowcount != 1:
        return Wait(lease_s)
    return Attempt(
        delivery_id=delivery_id,
        endpoint_id=row.endpoint_id,
        event_id=row.event_id,
        event_type=row.type,
        event_created=row.at,
        data=row.data,
        url=endpoint.url,
        secrets=tuple(valid_secrets(endpoint, now)),
        began=row.began,
        at=now,
        number=row.attempts + 1,
    )


def end_success(connection: Connection, attempt: Attempt, status_code: int, now: float, blocked_until: float) -> None:
    forget_failures(connection, attempt.endpoint_id)  # always before its deliveries: no deadlock
    _change_endpoint(connection, attempt.endpoint_id, {"blocked_until": blocked_until})
    _end(connection, attempt.delivery_id, DELIVERED, now, {"status_code": status_code, "error": None})


def end_failure(connection: Connection, attempt: Attempt, result: Mapping[str, Any], now: float) -> None:
    """The last failure of this delivery; `result`: status_code and error."""
    _end(connection, attempt.delivery_id, FAILED, now, result)


def try_again(connection: Connection, attempt: Attempt, result: Mapping[str, Any], due: float) -> None:
    _change(connection, attempt.delivery_id, {**result, "due": due})


def count_failure(connection: Connection, attempt: Attempt, now: float) -> tuple[float, int]:
    """Since when the endpoint fails, and how often in a row. Attempts at the same time count as one."""
    endpoint = _endpoint(connection, attempt.endpoint_id)
    since = now if endpoint.failing_since is None else endpoint.failing_since
    failures = endpoint.failures + (1 if attempt.at >= endpoint.blocked_until else 0)
    return since, failures


def block_endpoint(connection: Connection, endpoint_id: str, since: float, failures: int, until: float) -> None:
    _change_endpoint(connection, endpoint_id, {"failing_since": since, "failures": failures, "blocked_until": until})


def disable_endpoint(connection: Connection, endpoint_id: str, why: str, now: float) -> None:
    """All that waits for it fails with it."""
    _change_endpoint(connection, endpoint_id, {"disabled": now, "disabled_why": why})
    waiting = (webhook_deliveries.c.endpoint_id == endpoint_id) & (webhook_deliveries.c.state == PENDING)
    connection.execute(update(webhook_deliveries).where(waiting).values(state=FAILED, ended=now, error=why))


def _endpoint(connection: Connection, endpoint_id: str) -> Row[Any]:
    query = select(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)
    return connection.execute(query.with_for_update()).one()


def _change_endpoint(connection: Connection, endpoint_id: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id).values(**values))


def _change(connection: Connection, delivery_id: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(webhook_deliveries).where(webhook_deliveries.c.id == delivery_id).values(**values))


def _end(connection: Connection, delivery_id: str, state: str, now: float, values: Mapping[str, Any]) -> None:
    _change(connection, delivery_id, {**values, "state": state, "ended": now})
