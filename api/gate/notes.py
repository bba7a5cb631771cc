"""Facts about the current request that the access log, the span and the rate-limit headers read after the handler."""

from flask import g, has_request_context

from common.quota import Enqueued, Quota


def note_enqueued(enqueued: Enqueued) -> None:
    """Record the job that answers this request, and its key's quota."""
    g.job_id = enqueued.job_id
    g.enqueued = enqueued


def note_refused(quota: Quota, retry_after_s: float) -> None:
    """Record the quota of a key that has reached a limit."""
    g.enqueued = Enqueued("", quota=quota, place_s=retry_after_s)


def enqueued() -> Enqueued | None:
    """The outcome of this request's submission; without a job if a limit of its key refused it."""
    found: Enqueued | None = g.get("enqueued")
    return found


def ids() -> dict[str, str]:
    """Ids of the request being handled, for its log lines; empty outside of a request."""
    if not has_request_context():
        return {}
    return {name: g.get(name) for name in ("request_id", "job_id") if g.get(name)}
