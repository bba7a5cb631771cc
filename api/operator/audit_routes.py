"""GET /v1/audit_logs: what admin keys and `omni` commands changed, newest first; OpenAI's form, and its path too."""

import re
from typing import Any

from flask import Blueprint, request
from werkzeug.datastructures import MultiDict

from api.jobs.service import Service
from api.process.offload import in_store_thread
from api.request.pages import list_of, page_size
from common.errors import InvalidRequest
from common.records.audit import WantedChanges, changes

PREFIX = "audit_log-"
LISTS = ("event_types", "actor_ids", "resource_ids")
BOUNDS = ("gte", "gt", "lt", "lte")
KNOWN = frozenset(
    {"limit", "after", *LISTS, *(f"{name}[]" for name in LISTS), *(f"effective_at[{bound}]" for bound in BOUNDS)}
)


def audit_routes(service: Service) -> Blueprint:
    routes = Blueprint("audit", __name__)

    @routes.get("/v1/audit_logs")
    @routes.get("/v1/organization/audit_logs")
    def audit_logs() -> dict[str, Any]:
        service.keys.admin(request)
        limit, wanted = page_size(request), wanted_of(request.args)
        rows = in_store_thread(read, service, wanted, limit)
        return list_of([as_object(row) for row in rows[:limit]], has_more=len(rows) > limit)

    return routes


def read(service: Service, wanted: WantedChanges, limit: int) -> Any:
    with service.records.read() as connection:
        return changes(connection, wanted, limit)


def wanted_of(query: "MultiDict[str, str]") -> WantedChanges:
    """Raises InvalidRequest that names the parameter."""
    if unknown := sorted(set(query) - KNOWN):
        raise InvalidRequest(
            f"{unknown[0][:64]!r} is not a parameter of this route: it takes {', '.join(sorted(KNOWN))}.",
            param=unknown[0][:64],
        )
    after = query.get("after", "")
    if after and not re.fullmatch(rf"{PREFIX}\d{{1,9}}", after):
        raise InvalidRequest("'after' is the last id of the page before.", param="after")
    starts = [_time(query, "gte", 0), _time(query, "gt", 1)]
    ends = [_time(query, "lt", 0), _time(query, "lte", 1)]
    return WantedChanges(
        since=max((moment for moment in starts if moment is not None), default=None),
        until=min((moment for moment in ends if moment is not None), default=None),
        actions=_values(query, "event_types"),
        actors=_values(query, "actor_ids"),
        targets=_values(query, "resource_ids"),
        before=int(after.removeprefix(PREFIX)) if after else None,
    )


def _values(query: "MultiDict[str, str]", name: str) -> tuple[str, ...]:
    given = [*query.getlist(name), *query.getlist(f"{name}[]")]
    return tuple(part.strip() for value in given for part in value.split(",") if part.strip())


def _time(query: "MultiDict[str, str]", bound: str, added_s: int) -> float | None:
    name = f"effective_at[{bound}]"
    if name not in query:
        return None
    if not re.fullmatch(r"\d{1,12}", query[name]):
        raise InvalidRequest(f"'{name}' must be a unix time in whole seconds.", param=name)
    return int(query[name]) + added_s


def as_object(row: Any) -> dict[str, Any]:
    """OpenAI's fields, and what they lack: the target, the outcome, the address of a key's request."""
    key = {"id": row.key_id, "type": "user", "name": row.actor}
    session = {"user": {"id": row.actor}, "ip_address": None}
    return {
        "id": f"{PREFIX}{row.number}",
        "object": "organization.audit_log",
        "type": row.action,
        "effective_at": int(row.at),
        "actor": {
            "type": "session" if row.key_id is None else "api_key",
            "api_key": None if row.key_id is None else key,
            "session": session if row.key_id is None else None,
        },
        "resource_id": row.target,
        "details": row.details,
        "outcome": "unknown" if row.outcome == "begun" else row.outcome,
        "code": row.code,
        "ended_at": None if row.ended is None else int(row.ended),
        "ip_address": row.address or None,
        "forwarded_for": row.forwarded or None,
        "request_id": row.request_id or None,
    }
