"""Facts about the current request that the access log, the span and the rate-limit headers read after the handler."""

from flask import g, has_request_context

from common.quota import Enqueued, Quota


def note_enqueued(enqueued: Enqueued) -> None:
    """Record the job that answers this request, and its key's quota."""
    g.job_id = enqueued.job_id
    g.num_waiting = enqueued.num_waiting
    note_quota(enqueued.quota)


def note_quota(quota: Quota | None) -> None:
    g.quota = quota


def quota() -> Quota | None:
    """The key's quota; None when the request enqueued nothing and was not refused by a limit."""
    found: Quota | None = g.get("quota")
    return found


def num_waiting() -> int:
    """Jobs in the queue when the request was enqueued."""
    return int(g.get("num_waiting", 0))


def ids() -> dict[str, str]:
    """Ids of the request being handled, for its log lines; empty outside of a request."""
    if not has_request_context():
        return {}
    return {name: g.get(name) for name in ("request_id", "job_id") if g.get(name)}
