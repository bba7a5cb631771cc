"""Facts about the current request that the access log, the span and the rate-limit headers read after the handler."""

import time
from dataclasses import dataclass

from flask import g, has_request_context

from common.quota import Enqueued, Quota
from common.wire import Delta, Event, Failed, Finished


@dataclass(slots=True)
class Heard:
    """What an answer has brought so far, to whoever reads it."""

    first_token: float = 0.0  # by time.monotonic(); 0 before it
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    end: str = "left"  # finished, the code of a failure, or left: the client has disconnected before
    _written: int = 0  # by the job that has not ended

    def note(self, event: Event) -> None:
        if isinstance(event, Delta):
            if event.token_ids:
                self.first_token = self.first_token or time.monotonic()
                self._written += len(event.token_ids)
        elif isinstance(event, Finished):
            self.prompt_tokens += event.prompt_tokens
            self.cached_tokens += event.cached_tokens
            self.completion_tokens += event.completion_tokens
            self.end, self._written = "finished", 0
        elif isinstance(event, Failed):
            self.end = event.code

    @property
    def num_written(self) -> int:
        return self.completion_tokens + self._written


def hear() -> Heard:
    """For the answer to this request: whoever reads it notes its events there."""
    g.heard = found = Heard()
    return found


def heard() -> Heard | None:
    """What the answer to this request has brought; None without one."""
    found: Heard | None = g.get("heard")
    return found


def note_caller(owner: str) -> None:
    """Record whose key this request shows."""
    if has_request_context():
        g.owner = owner


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
