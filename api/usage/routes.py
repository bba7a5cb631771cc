"""GET /v1/usage: the caller's usage by day; for an admin's key that of all keys."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request

from api.gate.auth import Caller
from api.jobs.service import Service
from api.process.offload import in_store_thread
from api.request.pages import page_size
from api.usage.question import MAX_DAYS, UsageQuestion, question_of
from api.usage.report import Rows, as_csv, buckets
from common.errors import Forbidden, NotFound
from common.outbox.stream import Outbox
from common.records.accounts.ledger import Wanted, usage

DRAIN_S = 2.0  # the longest that an answer waits for jobs that have ended but do not count yet


def usage_routes(service: Service) -> Blueprint:
    routes = Blueprint("usage", __name__)

    @routes.get("/v1/usage")
    @routes.get("/v1/organization/usage/completions")
    def used() -> Response | dict[str, Any]:
        caller = service.keys.caller(request)
        today = datetime.fromtimestamp(time.time(), UTC).date()
        prefers_csv = request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv"
        asked = question_of(request.args, today, prefers_csv=prefers_csv)
        limit = page_size(request, default=MAX_DAYS, most=MAX_DAYS)
        last = min(asked.last, asked.first + timedelta(days=limit - 1))
        owners = owners_of(service, caller, asked)
        as_of = counted_until(Outbox(service.store.redis))
        wanted = Wanted(asked.first.isoformat(), last.isoformat(), owners, asked.models or None)
        rows = in_store_thread(read, service, wanted, asked)
        if asked.is_csv:
            return Response(as_csv(rows, asked.group_by, service.keys.name_of), content_type="text/csv; charset=utf-8")
        next_day = (last + timedelta(days=1)).isoformat() if last < asked.last else None
        return {
            "object": "page",
            "data": buckets(rows, asked.first, last, asked.group_by, service.keys.name_of),
            "has_more": next_day is not None,
            "next_page": next_day,
            "as_of": as_of,
        }

    return routes


def read(service: Service, wanted: Wanted, asked: UsageQuestion) -> Rows:
    with service.records.read() as connection:
        return usage(connection, wanted, asked.group_by)


def owners_of(service: Service, caller: Caller, asked: UsageQuestion) -> tuple[str, ...] | None:
    """The owners whose usage is asked for; None: all. Raises Forbidden for another key's, and NotFound."""
    if not caller.is_admin:
        own = (caller.owner, service.keys.name_of(caller.owner))
        if not set(asked.keys) <= set(own):
            raise Forbidden("Only an admin key sees the usage of other keys.")
        return (caller.owner,)
    return tuple(owner_named(service, name) for name in asked.keys) or None


def owner_named(service: Service, name: str) -> str:
    """The owner of a key's name, or the owner itself, also of a key that was revoked."""
    owner = service.keys.owner_named(name)
    if owner is not None:
        return owner
    if len(name) == 32 and set(name) <= set("0123456789abcdef"):
        return name
    raise NotFound(f"There is no key named {name[:64]!r}.")


def counted_until(outbox: Outbox) -> float:
    """Wait until all jobs that have ended by now count, for DRAIN_S at most. Returns until when they do."""
    now = time.time()
    return now if outbox.catches_up(DRAIN_S) else min(now, outbox.applied_until() or now)
